"""What the embedded tasks' classes are called, in the order of their labels."""

from karst_bench.data.mini.finegrained import GREEK_LETTERS, PETALS
from karst_bench.data.mini.natural import LETTERS
from karst_bench.data.mini.structured import COLUMNS, FEWEST, STEPS, TURNS

_NAMES: dict[str, tuple[str, ...]] = {
    "digits": tuple("0123456789"),
    "glyphs": tuple(LETTERS),
    "textures": ("stripes", "checks", "dots", "bricks", "scales", "zigzag", "weave", "cells", "marble", "grain"),
    "landuse": (
        "needles",
        "leaves",
        "green crops",
        "ripe crops",
        "clear lake",
        "muddy lake",
        "slate roofs",
        "tiled roofs",
    ),
    "cells": ("round", "long", "kidney", "two lobes", "three lobes", "ring", "dividing", "grains"),
    "location": tuple(f"x {4 + 4.8 * i:.1f}..{8.8 + 4.8 * i:.1f}" for i in range(COLUMNS)),
    "orientation": tuple(f"from {360 * i / TURNS:.0f} deg" for i in range(TURNS)),
    "count": tuple(str(FEWEST + i) for i in range(8)),
    "distance": tuple(f"{1.2 + i * 3 / STEPS:.1f} to {1.7 + i * 3 / STEPS:.1f}" for i in range(STEPS)),
    "fs_glyphs": tuple(GREEK_LETTERS),
    "fs_flowers": tuple(
        f"{n} {form} {eye}" for n in PETALS for form in ("round", "pointed") for eye in ("small", "large")
    ),
}


def class_names(task: str) -> tuple[str, ...]:
    """The names of a task's classes; label i is called class_names(task)[i]. Raises: KeyError for an unknown task."""
    return _NAMES[task]
