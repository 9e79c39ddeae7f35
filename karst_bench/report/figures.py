"""Figures 2 and 3, the ablation, the Pareto plots and the critical-difference diagram: drawing only, no arithmetic."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from karst_bench.report import figure_data
from karst_bench.report.figure_data import AblationGrid, FewShotCurves, MethodCost
from karst_bench.report.sections import Section
from karst_bench.report.statistics import compare
from karst_bench.report.statistics.compare import Ranks
from karst_bench.report.style import COLUMN_IN, HERO, MARKERS, PAGE_IN, RC, SHADES, method_style, save_figure

ACCURACY = "Test top-1 (%)"


def write_figures(folder: Path, few_shot: Iterable[tuple[str, str, FewShotCurves]], sections: Iterable[Section]) -> None:
    """All pictures that have something to show, as SVG, PDF and PNG; `figure_captions` names them."""
    with mpl.rc_context(RC):
        for name, _, curves in few_shot:
            if curves.methods:
                save_figure(draw_few_shot(curves), folder, name)
        for section in sections:
            for name in section.captions:
                save_figure(_drawn(section, name.removesuffix(section.suffix)), folder, name)


def _drawn(section: Section, kind: str) -> Figure:
    if kind == "figure3":
        return draw_kernel_sweep(figure_data.kernel_sweep(section.grid, section.view))
    if kind == "ablation":
        points = [(point.params_m, point.accuracy.value) for point in section.grid.points]
        front = compare.pareto_front(points)
        return draw_ablation(section.grid, front, compare.knee(points, front))
    if kind == "pareto":
        fronts = {title: figure_data.cost_front(costs) for title, costs in section.costs.items()}
        return draw_pareto(section.costs, fronts, section.average)
    assert section.ranks is not None
    tuning, ranks = section.ranks
    return draw_ranks(ranks, compare.cliques(ranks), tuning)


def short(label: str, most: int = 36) -> str:
    """A row's name as a figure has room for it."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def error_bars(estimates: Sequence[object]) -> list[float]:
    """Half widths for error bars; none where n = 1."""
    return [getattr(estimate, "half", None) or 0.0 for estimate in estimates]


def draw_few_shot(curves: FewShotCurves) -> Figure:
    """Figure 2: one panel per set and one for the average, accuracy over shots, a line per method."""
    panels = {title: methods for title, methods in curves.panels.items() if methods}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    height = 1.75 * rows + (0.2 + 0.14 * -(-len(curves.methods) // 6))
    width = PAGE_IN * max(columns, 2) / 3
    figure, grid = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    for axes, (title, methods) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(title)
        for index, method in enumerate(curves.methods):
            if method in methods:
                # A small shift per method keeps overlapping error bars apart; the ticks stay at the shots.
                shift = 2 ** (0.03 * (index - (len(curves.methods) - 1) / 2))
                points = methods[method]
                axes.errorbar(
                    [shots * shift for shots in points], [e.value for e in points.values()],
                    yerr=error_bars(list(points.values())), elinewidth=0.6, label=method, **method_style(index, method),
                )  # fmt: skip
        shots_axis(axes, curves.shots)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        ordered = [method for method in curves.methods if method in handles]
        beside = min(2 * max(columns, 2), len(ordered), max(2, int(width * 20 / max(len(short(m)) + 9 for m in ordered))))
        figure.legend([handles[m] for m in ordered], [short(m) for m in ordered], loc="outside lower center", ncols=beside)
    return figure


def shots_axis(axes: Axes, shots: Sequence[int]) -> None:
    """Shots on a log2 axis with the shots as ticks."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Training images per class (shots)")
    axes.set_ylabel(ACCURACY)


def draw_kernel_sweep(found: AblationGrid) -> Figure:
    """Figure 3: accuracy with its interval above, parameters below, over the number of kernels N."""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(COLUMN_IN, 2.9), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    bottom.set_xlabel("Number of kernels N")
    bottom.set_ylabel("Trainable\nparams (M)")
    n = [point.kernels for point in found.points]
    values = [point.accuracy for point in found.points]
    top.errorbar(n, [e.value for e in values], yerr=error_bars(values), elinewidth=0.9, **method_style(0, HERO))
    for x, estimate in zip(n, values, strict=True):
        peak = estimate.value if estimate.high is None else estimate.high
        top.annotate(
            f"{estimate.value:.2f}", (x, peak), (0, 3), textcoords="offset points", fontsize=6, ha="center",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}, zorder=6,
        )  # fmt: skip
    top.set_ylabel(f"{ACCURACY}\n{found.average}")
    top.margins(x=0.12, y=0.18)
    sizes = [point.params_m for point in found.points]
    bars = bottom.bar(n, sizes, width=0.55, color="#BBBBBB", edgecolor="black", linewidth=0.6, hatch="////")
    bottom.bar_label(bars, [f"{size:.3g}" for size in sizes], fontsize=6, padding=1)
    bottom.margins(y=0.25)
    bottom.set_xticks(n)
    return figure


def draw_ablation(found: AblationGrid, front: Sequence[int], bend: int | None) -> Figure:
    """Accuracy against parameters for every N, m, r: marker by N, shade by m, size by r; the front and its knee."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.9), layout="constrained")
    axes.set_xlabel("Trainable parameters (M)")
    axes.set_ylabel(f"{ACCURACY}\n{found.average}".rstrip())
    levels = {axis: axis_levels(found, axis) for axis in ("N", "m", "r")}
    shapes = {n: MARKERS[i % len(MARKERS)] for i, n in enumerate(levels["N"])}
    shades = {m: SHADES[i % len(SHADES)] for i, m in enumerate(levels["m"])}
    sizes = {r: 3.2 + 1.6 * i for i, r in enumerate(levels["r"])}
    x, y = [point.params_m for point in found.points], [point.accuracy.value for point in found.points]
    axes.plot([x[i] for i in front], [y[i] for i in front], color="#555555", linestyle="--", zorder=1)
    for point, px, py in zip(found.points, x, y, strict=True):
        n, m, r = (str(dict(point.axes)[axis]) for axis in ("N", "m", "r"))
        axes.errorbar(
            px, py, yerr=error_bars([point.accuracy]), color=shades[m], marker=shapes[n], markersize=sizes[r],
            markeredgecolor="black", markeredgewidth=0.5, elinewidth=0.6, linestyle="", zorder=2,
        )  # fmt: skip
    if bend is not None:
        axes.plot(x[bend], y[bend], marker="o", markersize=13, fillstyle="none", color="black", zorder=4)
        text = f"knee: {found.points[bend].label}"
        axes.annotate(text, (x[bend], y[bend]), (-9, 8), textcoords="offset points", fontsize=6, ha="right")
    cost_axis(axes, x)
    axes.margins(y=0.18)
    grey: dict[str, Any] = {"color": "#777777", "markeredgecolor": "black", "markeredgewidth": 0.5, "linestyle": ""}
    proxies = [Line2D([], [], marker=shapes[n], label=f"N={n}", **grey) for n in levels["N"]]
    proxies += [Line2D([], [], marker="o", label=f"m={m}", **{**grey, "color": shades[m]}) for m in levels["m"]]
    proxies += [Line2D([], [], marker="o", markersize=sizes[r], label=f"r={r}", **grey) for r in levels["r"]]
    columns = max(3, min(6, -(-len(proxies) // 2)))
    figure.legend(handles=proxies, loc="outside lower center", ncols=columns, handletextpad=0.2)
    return figure


def axis_levels(found: AblationGrid, axis: str) -> list[str]:
    """The values an axis takes, as text, in rising order."""
    return sorted({str(dict(point.axes)[axis]) for point in found.points}, key=lambda text: (len(text), text))


def cost_axis(axes: Axes, values: Sequence[float]) -> None:
    """A log axis that still has a place for zero (the linear probe trains no parameter), ticks at 1, 2, 5 x 10^k."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    smallest, largest = min(positive), max(positive)
    exponents = range(int(np.floor(np.log10(smallest))), int(np.ceil(np.log10(largest))) + 1)
    steps = (1, 2, 5) if largest < 100 * smallest else (1,)
    ticks = [float(f"{step}e{e}") for e in exponents for step in steps]
    ticks = [tick for tick in ticks if smallest / 2 <= tick <= largest * 2]
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=smallest / 2, linscale=0.3)
        ticks = [0.0, *ticks]
    else:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)


def draw_pareto(panels: Mapping[str, list[MethodCost]], fronts: Mapping[str, list[int]], average: str) -> Figure:
    """Accuracy against parameters, step time, memory; filled: our rows with interval, hollow: the paper's numbers."""
    width = PAGE_IN * (1 + len(panels)) / 4
    figure, grid = plt.subplots(1, len(panels), figsize=(width, 3.1), squeeze=False, layout="constrained")
    costs = [cost for points in panels.values() for cost in points]
    looks, low = row_styles(costs), lowest_shown([cost.accuracy.value for cost in costs])
    for axes, (title, points) in zip(grid.flat, panels.items(), strict=True):
        axes.set_xlabel(title)
        front = [points[i] for i in fronts[title]]
        steps = [cost.cost for cost in front], [cost.accuracy.value for cost in front]
        axes.plot(*steps, color="#999999", linestyle="--", linewidth=0.9, zorder=1)
        for cost in points:
            style = looks[cost.label]
            axes.errorbar(
                cost.cost, cost.accuracy.value, yerr=error_bars([cost.accuracy]), linestyle="", color=style["color"],
                marker=style["marker"], markerfacecolor=style["color"] if cost.source == "ours" else "white",
                markersize=4.5, elinewidth=0.7, zorder=style["zorder"],
            )  # fmt: skip
        if title == figure_data.PARAMETERS:
            cost_axis(axes, [cost.cost for cost in points])
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.margins(x=0.1, y=0.1)
        if low is not None:
            axes.set_ylim(bottom=low)
    grid[0, 0].set_ylabel(f"{ACCURACY}\n{average}")
    below = {cost.label: cost.accuracy.value for cost in costs if low is not None and cost.accuracy.value < low}
    proxies = cost_legend(looks, below, any(cost.source == "paper" for cost in costs))
    columns = max(2, min(7, int(width * 20 / max(len(str(proxy.get_label())) + 5 for proxy in proxies))))
    figure.legend(handles=proxies, loc="outside lower center", ncols=columns, handletextpad=0.2)
    return figure


def row_styles(costs: Sequence[MethodCost]) -> dict[str, dict[str, Any]]:
    """Row -> its look; a method's printed number looks like our row of it where we have one row alone."""
    ours = sorted({cost.label for cost in costs if cost.source == "ours"})
    bases: dict[str, list[str]] = {}
    for label in ours:
        bases.setdefault(label.partition(" [")[0], []).append(label)
    hero = bases.get(HERO, [HERO])[0]
    looks = {label: method_style(index, HERO if label == hero else label) for index, label in enumerate(ours)}
    for name in sorted({cost.label for cost in costs if cost.source == "paper"} - set(ours)):
        same = bases.get(name, [])
        looks[name] = looks[same[0]] if len(same) == 1 else method_style(len(looks), name)
    return looks


def lowest_shown(values: Sequence[float]) -> float | None:
    """Where an axis of accuracies begins: three times as far below the best as the median is, if anything lies lower. One row at
    chance would press all others into a line."""
    best, middle = max(values), float(np.median(values))
    low = best - 3 * max(best - middle, 1.0)
    return None if min(values) >= low else low - 0.5


def cost_legend(looks: Mapping[str, Mapping[str, Any]], below: Mapping[str, float], hollow: bool) -> list[Line2D]:
    """One filled marker per row, with the accuracy of those below the axis, and what a hollow one means."""
    seen: list[Mapping[str, Any]] = []
    proxies = []
    for label, style in looks.items():
        if style not in seen:
            seen.append(style)
            text = f"{short(label)}: {below[label]:.1f}, below the axis" if label in below else short(label)
            proxies.append(Line2D([], [], linestyle="", marker=style["marker"], color=style["color"], markersize=4.5, label=text))
    if hollow:
        proxies.append(
            Line2D(
                [], [], linestyle="", marker="o", color="#555555", mfc="white", markersize=4.5, label="hollow: paper"
            )
        )
    return proxies


def draw_ranks(found: Ranks, bars: Sequence[tuple[float, float]], kind: str = "none") -> Figure:
    """Critical-difference diagram of the rows of one kind of tuning: mean ranks on a line, a bar over methods that the test does
    not tell apart."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN * 1.4, 1.2 + 0.11 * len(found.mean)))
    axes.spines[:].set_visible(False)
    axes.grid(False)
    order = sorted(found.mean.items(), key=lambda item: (item[1], item[0]))
    k, half = len(order), -(-len(order) // 2)
    depth = -0.6 - 0.25 * len(bars)
    axes.set_xlim(0.2, k + 0.8)
    axes.set_ylim(depth - 0.55 * half, 1.6)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.plot([1, k], [0, 0], color="black", linewidth=1)
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [0, 0.14], color="black", linewidth=0.7)
        axes.text(tick, 0.22, str(tick), ha="center", va="bottom", fontsize=6)
    for index, (name, rank) in enumerate(order):
        left = index < half
        level = depth - 0.55 * (index if left else k - 1 - index)
        edge = 0.9 if left else k + 0.1
        axes.plot([rank, rank, edge], [0, level, level], color="#555555", linewidth=0.7)
        axes.text(
            edge, level, f"{short(name)} ({rank:.2f}) " if left else f" {short(name)} ({rank:.2f})", fontsize=6.5, va="center",
            ha="right" if left else "left", fontweight="bold" if name.partition(" [")[0] == HERO else "normal",
        )  # fmt: skip
    for index, (start, end) in enumerate(bars):
        axes.plot([start - 0.05, end + 0.05], [-0.3 - 0.25 * index] * 2, color="black", linewidth=2.4)
    width = min(found.critical, k - 1)
    axes.plot([1, 1 + width], [1.05, 1.05], color="black", linewidth=1.4, marker="|")
    axes.text(1, 1.2, f"critical difference {found.critical:.2f} (Nemenyi, 5 %); rank 1 = best; tuned={kind}", fontsize=6)
    return figure
