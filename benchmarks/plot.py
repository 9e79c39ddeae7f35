"""The steps, and how they scale, as one figure."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def draw(folder: Path) -> None:
    """Bars of the median step against the floor for each steps_*.json and gpu_*_b*.json, and the lines of scaling.json;
    PNG and SVG."""
    files = [*sorted(folder.glob("steps_*.json")), *sorted(folder.glob("gpu_*_b*.json"))]
    files, scaling = [path for path in files if len(json.loads(path.read_text())["rows"]) > 1], folder / "scaling.json"
    count = len(files) + scaling.exists()
    if not count:
        return
    plt.rcParams["svg.hashsalt"] = "karst_bench"
    columns = min(2, count)
    lines = -(-count // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(6.5 * columns, 4 * lines), squeeze=False)
    for panel, path in zip(panels.flat, files, strict=False):
        _bars(panel, json.loads(path.read_text()))
    if scaling.exists():
        _lines(panels.flat[len(files)], json.loads(scaling.read_text()))
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / "steps.png", dpi=150)
    figure.savefig(folder / "steps.svg", metadata={"Date": None})
    plt.close(figure)


def _bars(panel: Axes, result: dict[str, Any]) -> None:
    clock = result.get("clock", "cpu")
    names = [name for name, row in result["rows"].items() if row.get(f"{clock}_ratio_median", 1.0) != 1.0]
    ratios = [result["rows"][name][f"{clock}_ratio_median"] for name in names]
    if not names:
        return
    bars = panel.barh(names[::-1], ratios[::-1], color="#4c72b0")
    panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    panel.axvline(1.0, color="black", linewidth=0.8)
    panel.set_xlim(0, 1.12 * max(ratios))
    depth = f", {result['depth']} blocks" if result["depth"] else ""
    panel.set_title(f"{result['model']}{depth}, batch {result['batch']}, {result['precision']}", fontsize=9)
    panel.set_xlabel(f"step / floor (median, {'CPU time' if clock == 'cpu' else 'wall time on the GPU'})")


def _lines(panel: Axes, result: dict[str, Any]) -> None:
    """KARST's step over the floor's against batch, N and r, one line each."""
    for axis in ("batch", "N", "r"):
        points = {int(name.split()[1]): row for name, row in result["rows"].items() if name.split()[0] == axis}
        panel.plot(list(points), [row["cpu_ratio_median"] for row in points.values()], marker="o", label=axis)
    panel.axhline(1.0, color="black", linewidth=0.8)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_title(f"KARST on ViT-B/16, {result['blocks']} blocks, all tokens, {result['precision']}", fontsize=9)
    panel.set_xlabel("batch, N (kernels) or r (rank); the others stay at 2, 2, 8")
    panel.set_ylabel("step / floor (median, CPU time)")
    panel.legend()
