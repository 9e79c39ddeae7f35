"""Pictures of what lies behind an accuracy: calibration, classes, features before and after, ranks of weight changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from karst_bench.records.diagnostics import Diagnostics, FeatureFacts, ReliabilityBin, UpdateFacts
from karst_bench.report.style import COLOURS, COLUMN_IN, PAGE_IN, RC, method_style, save_figure

NAMED = 24  # classes whose names fit on an axis
WHEN: dict[str, dict[str, Any]] = {
    "before": {"color": "#8C8C8C", "marker": "s", "linestyle": "--"}, "after": {"color": "black", "marker": "o"},
}  # fmt: skip
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def write_diagnostic_figures(found: Diagnostics, folder: Path, *, title: str, class_names: tuple[str, ...]) -> None:
    """reliability, confusion, features and effective_rank as SVG, PDF and PNG; a part that is not known is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(RC):
        if found.reliability and found.ece_pct is not None:
            save_figure(draw_reliability(found.reliability, found.ece_pct, title), folder, "reliability")
        if found.confusion:
            save_figure(draw_confusion(found, class_names, title), folder, "confusion")
        if found.features:
            save_figure(draw_features(found.features, title), folder, "features")
        if found.updates:
            save_figure(draw_effective_ranks({title: found.updates}), folder, "effective_rank")


def draw_reliability(bins: Sequence[ReliabilityBin], ece_pct: float, title: str) -> Figure:
    """Accuracy over the probability of top-1, with the share of images in each bin below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(COLUMN_IN, 3.2), sharex=True, height_ratios=[3, 1], layout="constrained")
    edges = np.linspace(0, 100, len(bins) + 1)
    width = 100 / len(bins)
    filled = [(left, b) for left, b in zip(edges, bins, strict=False) if b.n]
    heights = [b.top1_pct for _, b in filled]
    above.bar([left for left, _ in filled], heights, width, align="edge", color=COLOURS[0], edgecolor="white", label="accuracy")
    above.plot([0, 100], [0, 100], color="#555555", linestyle="--", linewidth=0.8, label="calibrated")
    above.plot([b.confidence_pct for _, b in filled], heights, "k.", markersize=3)
    above.set(ylabel="top-1 (%)", ylim=(0, 100), xlim=(0, 100), title=f"{title}\nexpected calibration error {ece_pct:.2f} %")
    above.legend(loc="upper left")
    n = sum(b.n for b in bins)
    below.bar(edges[:-1], [100 * b.n / n for b in bins], width, align="edge", color="#8C8C8C", edgecolor="white")
    below.set(xlabel="probability of top-1 (%)", ylabel="images (%)")
    return figure


def draw_confusion(found: Diagnostics, class_names: Sequence[str], title: str) -> Figure:
    """Rows are labels, columns what was said, in per cent of the label's images."""
    counts = np.array(found.confusion, dtype=float)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = len(counts)
    side = min(PAGE_IN, max(COLUMN_IN, 0.16 * classes + 1.2))
    figure, axes = plt.subplots(figsize=(side, side * 0.9), layout="constrained")
    axes.grid(False)
    image = axes.imshow(share, cmap="Greys", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the label's images", fraction=0.046)
    axes.set(xlabel="said", ylabel="label", title=f"{title}\nmean per-class accuracy {found.mean_per_class_pct:.2f} %")
    if classes <= NAMED:
        names = list(class_names) or [str(number) for number in range(classes)]
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
        if classes <= 12:
            for row, column in np.ndindex(classes, classes):
                if share[row, column] >= 1:
                    shade = "white" if share[row, column] > 50 else "black"
                    axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", color=shade, fontsize=5.5)
    return figure


def draw_features(features: Sequence[FeatureFacts], title: str) -> Figure:
    """Mean and standard deviation of every block's output, before and after adaptation."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_IN, 2.1), layout="constrained")
    blocks = range(1, len(features) + 1)
    for axes, what in ((left, "mean"), (right, "std")):
        for when, style in WHEN.items():
            values = [getattr(feature, f"{what}_{when}") for feature in features]
            axes.plot(blocks, values, label=f"{when} adaptation", **style)
        axes.set(xlabel="block", xticks=list(blocks), ylabel="mean" if what == "mean" else "standard deviation")
    left.legend()
    figure.suptitle(f"{title}: outputs of the blocks, over images, tokens and channels", fontsize=7.5)
    return figure


def draw_effective_ranks(methods: Mapping[str, Sequence[UpdateFacts]]) -> Figure:
    """Effective rank of every weight change over depth, a panel for each kind of layer, a line for each method.

    The dotted line is the most that a matrix of the layer's shape can have.
    """
    figure, grid = plt.subplots(1, len(LAYERS), figsize=(PAGE_IN, 2.3), sharey=True, layout="constrained")
    for axes, kind in zip(grid, LAYERS, strict=True):
        most: dict[int, int] = {}
        for index, (method, updates) in enumerate(methods.items()):
            found = [(n, update) for n, update in enumerate((u for u in updates if u.path.endswith(kind)), start=1)]
            most |= {n: update.largest_rank for n, update in found}
            if found:
                axes.plot([n for n, _ in found], [u.effective_rank for _, u in found], label=method,
                          **method_style(index, method.split(" ")[0]))  # fmt: skip
        if most:
            axes.plot(list(most), list(most.values()), color="#555555", linestyle=":", linewidth=0.8, label="rank of the shape")
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set(title=kind, xlabel="block", xticks=sorted(most) or [1])
    grid[0].set_ylabel("effective rank of dW")
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=max(1, len(handles)))
    return figure
