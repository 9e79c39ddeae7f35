"""The steps as one figure."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(folder: Path) -> None:
    """Bars of the median step against the floor, one panel for each steps_*.json; writes steps.png and steps.svg."""
    files = sorted(folder.glob("steps_*.json"))
    if not files:
        return
    plt.rcParams["svg.hashsalt"] = "karst_bench"
    figure, panels = plt.subplots(1, len(files), figsize=(5.5 * len(files), 4), squeeze=False, sharex=True)
    for panel, path in zip(panels[0], files, strict=True):
        result = json.loads(path.read_text())
        names = [name for name in result["rows"] if name != "floor"]
        ratios = [result["rows"][name]["cpu_ratio_median"] for name in names]
        bars = panel.barh(names[::-1], ratios[::-1], color="#4c72b0")
        panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        panel.axvline(1.0, color="black", linewidth=0.8)
        depth = f", {result['depth']} blocks" if result["depth"] else ""
        panel.set_title(f"{result['model']}{depth}, batch {result['batch']}, {result['precision']}", fontsize=9)
        panel.set_xlabel("step / floor (median, CPU time)")
    figure.tight_layout()
    figure.savefig(folder / "steps.png", dpi=150)
    figure.savefig(folder / "steps.svg", metadata={"Date": None})
    plt.close(figure)
