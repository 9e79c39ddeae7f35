"""The steps, and how they scale, as one figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def draw(folder: Path) -> None:
    """Bars of the median step against the floor: steps.* of each steps_*.json and the lines of scaling.json, gpu.* of each
    gpu_*_b*.json; PNG and SVG."""
    plt.rcParams["svg.hashsalt"] = "karst_bench"
    scaling = folder / "scaling.json"
    lines = json.loads(scaling.read_text()) if scaling.exists() else None
    _figure(folder / "steps", sorted(folder.glob("steps_*.json")), lines)
    _figure(folder / "gpu", [path for path in sorted(folder.glob("gpu_*_b*.json")) if "evaluation" not in path.name], None)


def _figure(path: Path, files: Sequence[Path], scaling: dict[str, Any] | None) -> None:
    """One panel below the other, each as high as its bars are many; nothing where there is only a floor."""
    results = [result for file in files if len(_ratios(result := json.loads(file.read_text()))) > 0]
    heights = [1.2 + 0.24 * len(_ratios(result)) for result in results] + ([4.0] if scaling else [])
    if not heights:
        return
    figure, panels = plt.subplots(len(heights), 1, figsize=(9, sum(heights)), height_ratios=heights, squeeze=False)
    for panel, result in zip(panels.flat, results, strict=False):
        _bars(panel, result)
    if scaling:
        _lines(panels.flat[-1], scaling)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def _ratios(result: dict[str, Any]) -> dict[str, float]:
    """The rows but the floor itself."""
    key = f"{result.get('clock', 'cpu')}_ratio_median"
    return {name: row[key] for name, row in result["rows"].items() if row.get(key, 1.0) != 1.0}


def _bars(panel: Axes, result: dict[str, Any]) -> None:
    clock, ratios = result.get("clock", "cpu"), _ratios(result)
    bars = panel.barh([*ratios][::-1], [*ratios.values()][::-1], color="#4c72b0")
    panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    panel.tick_params(axis="y", labelsize=8)
    panel.margins(y=0.01)
    panel.axvline(1.0, color="black", linewidth=0.8)
    panel.set_xlim(0, 1.12 * max(ratios.values()))
    depth = f", {result['depth']} blocks" if result["depth"] else ""
    where = f" ({result['machine']['gpu']})" if clock == "wall" else ""
    panel.set_title(f"{result['model']}{depth}, batch {result['batch']}, {result['precision']}{where}", fontsize=9)
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
