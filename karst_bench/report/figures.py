"""Figures 2 and 3, the ablation, the Pareto plots and the critical-difference diagram: drawing only, no arithmetic."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from karst_bench.report import catalog
from karst_bench.report.compare import Ranks
from karst_bench.report.series import Cost, Curves, Grid
from karst_bench.report.style import COLOURS, COLUMN_IN, HERO, MARKERS, PAGE_IN, look, say

ACCURACY = "Test top-1 (%)"


def halves(estimates: Sequence[object]) -> list[float]:
    """Half widths for error bars; none where n = 1."""
    return [getattr(estimate, "half", None) or 0.0 for estimate in estimates]


def few_shot(curves: Curves) -> Figure:
    """Figure 2: one panel per set and one for the average, accuracy over shots, a line per method."""
    columns = 3
    rows = -(-len(curves.panels) // columns)
    height = 1.75 * rows + (0.2 + 0.14 * -(-len(curves.methods) // 6))
    figure, grid = plt.subplots(rows, columns, figsize=(PAGE_IN, height), squeeze=False, layout="constrained")
    for axes, (title, methods) in zip(grid.flat, curves.panels.items(), strict=False):
        axes.set_title(title)
        if not methods:
            say(axes)
            continue
        for index, method in enumerate(curves.methods):
            if method in methods:
                # A small shift per method keeps overlapping error bars apart; the ticks stay at the shots.
                shift = 2 ** (0.03 * (index - (len(curves.methods) - 1) / 2))
                points = methods[method]
                axes.errorbar(
                    [shots * shift for shots in points], [e.value for e in points.values()],
                    yerr=halves(list(points.values())), elinewidth=0.6, label=method, **look(index, method),
                )  # fmt: skip
        shots_axis(axes)
    for axes in list(grid.flat)[len(curves.panels) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        ordered = [method for method in curves.methods if method in handles]
        figure.legend([handles[m] for m in ordered], ordered, loc="outside lower center", ncols=min(6, len(ordered)))
    return figure


def shots_axis(axes: Axes) -> None:
    """Shots on a log2 axis with the shots as ticks."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(catalog.SHOTS, [str(shots) for shots in catalog.SHOTS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Training images per class (shots)")
    axes.set_ylabel(ACCURACY)


def kernels(found: Grid) -> Figure:
    """Figure 3: accuracy with its interval above, parameters below, over the number of kernels N."""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(COLUMN_IN, 2.9), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    if not found.points:
        say(top)
        say(bottom)
        return figure
    n = [point.kernels for point in found.points]
    values = [point.accuracy for point in found.points]
    top.errorbar(n, [e.value for e in values], yerr=halves(values), elinewidth=0.9, **look(0, HERO))
    for x, estimate in zip(n, values, strict=True):
        label = f"{estimate.value:.2f}"
        top.annotate(label, (x, estimate.value), (4, 4), textcoords="offset points", fontsize=6)
    top.set_ylabel(f"{ACCURACY}\n{found.average}")
    top.margins(x=0.12, y=0.18)
    sizes = [point.params_m for point in found.points]
    bars = bottom.bar(n, sizes, width=0.55, color="#BBBBBB", edgecolor="black", linewidth=0.6, hatch="////")
    bottom.bar_label(bars, [f"{size:.3g}" for size in sizes], fontsize=6, padding=1)
    bottom.set_ylabel("Trainable\nparams (M)")
    bottom.margins(y=0.25)
    bottom.set_xlabel("Number of kernels N")
    bottom.set_xticks(n)
    return figure


def ablation(found: Grid, front: Sequence[int], bend: int | None) -> Figure:
    """Accuracy against parameters for every N, m, r: the front, its knee, marker by N and colour by m."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.7), layout="constrained")
    if not found.points:
        say(axes)
        return figure
    every_n = sorted({str(dict(point.axes)["N"]) for point in found.points}, key=lambda text: (len(text), text))
    every_m = sorted({str(dict(point.axes)["m"]) for point in found.points}, key=lambda text: (len(text), text))
    x, y = [point.params_m for point in found.points], [point.accuracy.value for point in found.points]
    axes.plot([x[i] for i in front], [y[i] for i in front], color="#555555", linewidth=1.0, linestyle="--", zorder=1)
    for point, px, py in zip(found.points, x, y, strict=True):
        marker = MARKERS[every_n.index(str(dict(point.axes)["N"])) % len(MARKERS)]
        colour = COLOURS[every_m.index(str(dict(point.axes)["m"])) % len(COLOURS)]
        half = halves([point.accuracy])
        axes.errorbar(px, py, yerr=half, color=colour, marker=marker, elinewidth=0.5, alpha=0.9, markersize=4, zorder=2)
        label = f"r={dict(point.axes)['r']}"
        axes.annotate(label, (px, py), (3, -7), textcoords="offset points", fontsize=5, color="#555555")
    if bend is not None:
        axes.plot(x[bend], y[bend], marker="o", markersize=11, fillstyle="none", color="black", zorder=4)
        text = f"knee: {found.points[bend].label}"
        axes.annotate(text, (x[bend], y[bend]), (-8, 12), textcoords="offset points", fontsize=6, ha="right")
    cost_axis(axes, x)
    axes.set_xlabel("Trainable parameters (M)")
    axes.set_ylabel(f"{ACCURACY}\n{found.average}")
    axes.margins(y=0.15)
    proxies = [plt.Line2D([], [], color="#555555", marker=MARKERS[i % len(MARKERS)], linestyle="", label=f"N={n}")
               for i, n in enumerate(every_n)]  # fmt: skip
    proxies += [plt.Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=3, label=f"m={m}")
                for i, m in enumerate(every_m)]  # fmt: skip
    figure.legend(handles=proxies, loc="outside lower center", ncols=min(6, len(proxies)), handlelength=1.2)
    return figure


def cost_axis(axes: Axes, values: Sequence[float]) -> None:
    """A log axis that still has a place for zero (the linear probe trains no parameter), ticks at 1, 2, 5 x 10^k."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    smallest, largest = min(positive), max(positive)
    exponents = range(int(np.floor(np.log10(smallest))), int(np.ceil(np.log10(largest))) + 1)
    steps = (1, 2, 5) if len(exponents) < 3 else (1,)
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


def pareto(panels: Mapping[str, list[Cost]], fronts: Mapping[str, list[int]]) -> Figure:
    """Accuracy against parameters, step time and memory; our points filled with interval, the paper's hollow."""
    figure, grid = plt.subplots(1, 3, figsize=(PAGE_IN, 2.9), layout="constrained")
    names = list(dict.fromkeys(cost.label for points in panels.values() for cost in points))
    handles: dict[str, Any] = {}
    for axes, (title, points) in zip(grid, panels.items(), strict=True):
        axes.set_xlabel(title)
        if not points:
            say(axes)
            continue
        front = [points[i] for i in fronts[title]]
        steps = [cost.cost for cost in front], [cost.accuracy.value for cost in front]
        axes.plot(*steps, color="#AAAAAA", linestyle="--", linewidth=0.9, zorder=1)
        for cost in points:
            marker = look(names.index(cost.label), cost.label)
            filled = cost.source == "ours"
            handle = axes.errorbar(
                cost.cost, cost.accuracy.value, yerr=halves([cost.accuracy]), linestyle="", color=marker["color"],
                marker=marker["marker"], markerfacecolor=marker["color"] if filled else "white", markersize=4.5,
                elinewidth=0.7, zorder=marker["zorder"],
            )  # fmt: skip
            handles.setdefault(cost.label + ("" if filled else " (paper)"), handle)
        cost_axis(axes, [cost.cost for cost in points])
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.margins(y=0.1)
    grid[0].set_ylabel(f"{ACCURACY}, Avg.")
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=7, handletextpad=0.2)
    return figure


def ranks(found: Ranks | None, bars: Sequence[tuple[float, float]]) -> Figure:
    """Critical-difference diagram: mean ranks on a line, a bar over methods that the test does not tell apart."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN * 1.4, 1.2 + 0.11 * len(found.mean if found else ())))
    axes.spines[:].set_visible(False)
    if found is None:
        say(axes, "fewer than three methods with runs on every task")
        return figure
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
            edge, level, f"{name} ({rank:.2f}) " if left else f" {name} ({rank:.2f})", fontsize=6.5, va="center",
            ha="right" if left else "left", fontweight="bold" if name == HERO else "normal",
        )  # fmt: skip
    for index, (start, end) in enumerate(bars):
        axes.plot([start - 0.05, end + 0.05], [-0.3 - 0.25 * index] * 2, color="black", linewidth=2.4)
    width = min(found.critical, k - 1)
    axes.plot([1, 1 + width], [1.05, 1.05], color="black", linewidth=1.4, marker="|")
    axes.text(1, 1.2, f"critical difference {found.critical:.2f} (Nemenyi, 5 %); rank 1 = best", fontsize=6)
    return figure
