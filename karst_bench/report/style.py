"""How figures look: two-column paper sizes, colours safe for colour-blind eyes and grey printers, fixed bytes."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLUMN_IN, PAGE_IN = 3.5, 7.16
HERO = "karst"

# Okabe and Ito's colours ordered by luminance steps; marker, dash and fill repeat what the colour says.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7A5C00", "#8C8C8C", "#5B2C83")
# Light to dark: an ordered quantity stays ordered in grey.
SHADES = ("#F2D16B", "#56B4E9", "#1B6CA8", "#222222")
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)), (0, (7, 2)), (0, (2, 1)))

# Suffix -> what a file would say of its making, left out.
FIGURE_FILES: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}

RC: Any = {
    "font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7, "legend.fontsize": 6.5,
    "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "lines.linewidth": 1.0, "lines.markersize": 3.6, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.4,
    "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "karst_bench", "svg.fonttype": "path",
    "pdf.fonttype": 42, "figure.dpi": 100, "savefig.dpi": 300, "errorbar.capsize": 1.5, "path.simplify": False,
}  # fmt: skip


def method_style(index: int, method: str) -> dict[str, Any]:
    """Colour, marker and dash of the index-th method; KARST is black, solid, with filled circles, in every figure."""
    if method == HERO:
        return {"color": "black", "marker": "o", "linestyle": "-", "linewidth": 1.6, "zorder": 5}
    return {
        "color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)], "linewidth": 0.9, "markerfacecolor": "white", "zorder": 3,
    }  # fmt: skip


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write name.svg, .pdf and .png without dates or versions, so that the same numbers give the same bytes."""
    for suffix, metadata in FIGURE_FILES.items():
        figure.savefig(folder / f"{name}.{suffix}", metadata=metadata, bbox_inches="tight", pad_inches=0.03)
    plt.close(figure)
