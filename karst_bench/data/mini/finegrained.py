"""Fine-grained few-shot sets: Greek letters, and flowers that differ in petals and eye."""

import numpy as np

from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.data.mini.drawing import (
    SIDE,
    Mask,
    Points,
    against,
    clouds,
    colour,
    fine_size,
    finish,
    ground,
    litter,
    paint,
    place,
)
from karst_bench.data.mini.fonts import GREEK, face

GREEK_LETTERS = "αβγδεζηθκλμνξπρστφχψ"
PETALS = (3, 4, 6, 8)


def fs_glyphs(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """One of twenty small Greek letters in one of eleven faces, a little turned, tinted, on a cloudy ground."""
    base = colour(rng, 40, 200)
    size = rng.uniform(24, 31) / level.fineness
    x, y = SIDE / 2 + rng.uniform(-1.5, 1.5, 2)
    font = face(GREEK[rng.integers(len(GREEK))], fine_size(size))
    mask = Mask().letter(GREEK_LETTERS[label], font, x, y).turned(rng.uniform(-8, 8), x, y).soft()
    ink = against(rng, base, level.contrast)
    image = paint(ground(rng, base, rng.uniform(2, 12)), mask, ink)
    return finish(litter(image, rng, level.clutter, ink), rng, noise=level.noise)


def _petal(pointed: bool) -> Points:
    """A petal along +x from 0 to 1, half its width about 0.3: pointed like an almond, or round like a spoon."""
    t = np.linspace(0, 1, 16)
    half = 0.34 * np.sin(np.pi * t) if pointed else 0.42 * t**0.8 * np.sqrt(np.clip(1 - t**4, 0, 1))
    return [*zip(t, half, strict=True), *zip(t[::-1], -half[::-1], strict=True)]


def fs_flowers(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """A flower among leaves: its kind is the number of petals (3, 4, 6, 8), their form, and whether the eye is large.

    label = 4 * (index of the number) + 2 * pointed + large eye; colours, size and place say nothing.
    """
    number, pointed, large = PETALS[label // 4], bool(label // 2 % 2), bool(label % 2)
    leaf = np.array((66.0, 96.0, 60.0)) + rng.normal(0, 18, 3)
    image = ground(rng, leaf, rng.uniform(6, 16))
    x, y = SIDE / 2 + rng.uniform(-1.5, 1.5, 2)
    size, turn = rng.uniform(12, 14.5) / level.fineness, rng.uniform(-0.2, 0.2) - np.pi / 2
    ink = against(rng, leaf, level.contrast)
    shape = _petal(pointed)
    width = 4.6 / number if number > 5 else 1.0
    for i in range(number):
        way = turn + 2 * np.pi * i / number + rng.normal(0, 0.04)
        petal = [(u, v * width) for u, v in shape]
        mask = Mask().polygon(place(petal, x, y, size * rng.uniform(0.93, 1.05), way)).soft()
        image = paint(image, mask, ink * rng.uniform(0.9, 1.1))
    eye = size * (0.42 if large else 0.16)
    image = paint(image, Mask().disc(x, y, eye).soft(), colour(rng, 0, 70))
    image = litter(image + clouds(rng)[..., None] * rng.uniform(0, 8), rng, level.clutter, leaf)
    return finish(image, rng, light=0.3, noise=level.noise)
