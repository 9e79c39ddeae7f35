"""Structured group: where the ground changes, where the light comes from, how many things, how far the nearest is."""

import numpy as np

from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.data.mini.drawing import (
    SIDE,
    Mask,
    against,
    clouds,
    colour,
    ellipse_points,
    finish,
    grid,
    ground,
    litter,
    paint,
    place,
)

COLUMNS = 5  # location: columns of 4.8 pixels from 4 to 28
TURNS = 8  # orientation: eighths of a full turn
FEWEST = 2  # count: 2 .. 9 things
STEPS = 6  # distance


def location(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """A patch where the stripes of the ground run the other way; the label is the column that its middle lies in.

    Both parts have the same two colours and the same share of each, so no figure of a colour of its own is there.
    """
    x, y = grid()
    base = colour(rng, 40, 200)
    ink = against(rng, base, level.contrast)
    period, turn = rng.uniform(3.2, 4.6), rng.uniform(0, np.pi)
    middle = 4 + (SIDE - 8) / COLUMNS * (label + rng.random())
    high, radius = rng.uniform(9, SIDE - 9), rng.uniform(6, 8) / level.fineness
    outline = ellipse_points(middle, high, radius, radius, rng.uniform(0, 6.3), rng.normal(0, 0.08, 3))
    parts = []
    for way in (turn, turn + np.pi / 2 + rng.uniform(-0.3, 0.3)):
        bend = 0.5 * clouds(rng, (2, 4))
        phase = 2 * np.pi * ((np.cos(way) * x + np.sin(way) * y + bend) / period + rng.random())
        parts.append(np.clip(0.5 + 0.8 * np.sin(phase), 0, 1))
    inside = Mask().polygon(outline).soft()
    share = inside * parts[1] + (1 - inside) * parts[0]
    image = paint(ground(rng, base, rng.uniform(2, 8)), share, ink)
    return finish(litter(image, rng, level.clutter, (base + ink) / 2), rng, light=0.3, noise=level.noise)


def orientation(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """Pebbles on a plain, lit from one side; the label is the eighth of the full turn that the light comes from.

    Each pebble is a dome of its own colour: lighter by up to `contrast` towards the light, darker away from it, with a
    shadow behind. Spots on the plain (`clutter`) have no light side.
    """
    x, y = grid()
    base = colour(rng, 70, 185)
    image = litter(ground(rng, base, rng.uniform(3, 12)), rng, level.clutter, against(rng, base, 40))
    turn = 2 * np.pi * (label + rng.uniform(-0.38, 0.38)) / TURNS
    towards = np.array((np.cos(turn), np.sin(turn)))
    for _ in range(rng.integers(5, 12)):
        px, py = rng.uniform(2, SIDE - 2, 2)
        r = rng.uniform(3, 5) / level.fineness
        far = Mask().disc(px - 0.5 * r * towards[0], py - 0.5 * r * towards[1], r).soft()
        image = paint(image, far * 0.006 * level.contrast, np.full(3, 15.0))
        lit = np.clip(((x - px) * towards[0] + (y - py) * towards[1]) / r, -1, 1) * level.contrast
        stone = np.clip(base + rng.normal(0, 16) + rng.normal(0, 10, 3), 30, 225)
        image = paint(image, Mask().disc(px, py, r).soft(), stone + lit[..., None])
    return finish(image, rng, light=0.3, noise=level.noise)


def _thing(image: np.ndarray, rng: np.random.Generator, tint: np.ndarray, x: float, y: float, r: float) -> np.ndarray:
    """A ball, a box or a drum of radius r with light from above left and a shadow on the floor."""
    shadow = Mask().polygon(ellipse_points(x + 0.4 * r, y + 0.75 * r, 1.1 * r, 0.45 * r, 0)).soft()
    image = paint(image, shadow * 0.45, np.full(3, 20.0))
    px = grid()
    kind = rng.integers(3)
    if kind == 0:
        lit = 1.25 - 0.55 * np.hypot(px[0] - x + 0.4 * r, px[1] - y + 0.4 * r) / r
        return paint(image, Mask().disc(x, y, r).soft(), tint * np.clip(lit, 0.3, 1.25)[..., None])
    if kind == 1:
        front = place(((-0.9, -0.4), (0.5, -0.4), (0.5, 0.9), (-0.9, 0.9)), x, y, r, 0)
        top = place(((-0.9, -0.4), (-0.4, -0.95), (0.95, -0.95), (0.5, -0.4)), x, y, r, 0)
        right = place(((0.5, -0.4), (0.95, -0.95), (0.95, 0.4), (0.5, 0.9)), x, y, r, 0)
        for points, light in ((front, 0.9), (top, 1.2), (right, 0.6)):
            image = paint(image, Mask().polygon(points).soft(), tint * light)
        return image
    body = Mask().polygon(ellipse_points(x, y + 0.6 * r, 0.8 * r, 0.3 * r, 0))
    body.polygon(place(((-0.8, -0.6), (0.8, -0.6), (0.8, 0.6), (-0.8, 0.6)), x, y, r, 0))
    lit = np.clip(1 - 0.4 * (px[0] - x) / r, 0.5, 1.3)[..., None]
    image = paint(image, body.soft(), tint * lit)
    return paint(image, Mask().polygon(ellipse_points(x, y - 0.6 * r, 0.8 * r, 0.3 * r, 0)).soft(), tint * 1.2)


def _floor(rng: np.random.Generator, base: np.ndarray, horizon: float) -> np.ndarray:
    """A floor that grows lighter towards the viewer, and a wall behind it; its colours are near `base`."""
    _, y = grid()
    image = base + ((y - SIDE / 2) * rng.uniform(0.2, 1.5))[..., None]
    image = np.where((y < horizon)[..., None], image * rng.uniform(0.65, 1.3) + rng.normal(0, 10, 3), image)
    return image + clouds(rng)[..., None] * rng.uniform(1, 9)


def _spots(count: int, rng: np.random.Generator, apart: float) -> list[tuple[float, float]]:
    """`count` places at least `apart` pixels from each other (a little less where the room is short)."""
    while True:
        spots: list[tuple[float, float]] = []
        for _ in range(200):
            x, y = rng.uniform(3.5, SIDE - 3.5), rng.uniform(5, SIDE - 3.5)
            if all(np.hypot(x - a, y - b) > apart for a, b in spots):
                spots.append((x, y))
            if len(spots) == count:
                return sorted(spots, key=lambda spot: spot[1])
        apart *= 0.95


def count(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """Two to nine balls, boxes and drums of any size on a floor with specks; the label is their number less two."""
    base = np.full(3, rng.uniform(75, 190)) + rng.normal(0, 10, 3)
    image = _floor(rng, base, rng.uniform(-2, 6))
    image = litter(image, rng, level.clutter, against(rng, base, level.contrast))
    for x, y in _spots(FEWEST + label, rng, 5.6):
        tint = against(rng, base, level.contrast) + rng.normal(0, 25, 3)
        image = _thing(image, rng, tint, x, y, rng.uniform(2.4, 4.0) / level.fineness)
    return finish(image, rng, light=0.3, noise=level.noise)


def distance(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """Things on a floor in perspective; the label is the nearest one's distance in six steps.

    At distance d (the nearest 1.2 to 4.2, others up to 5.6) a thing stands 30 h / d pixels below the horizon and is 10 s / d
    pixels in radius; the horizon, the camera's height h and the things' own size s vary, so neither place nor size alone
    tells d. `clutter`: the most things behind the nearest; `fineness`: how much s varies.
    """
    horizon, height = rng.uniform(3, 10), rng.uniform(0.7, 0.95)
    base = np.full(3, rng.uniform(75, 190)) + rng.normal(0, 10, 3)
    image = _floor(rng, base, horizon)
    nearest = 1.2 + 3.0 * (label + rng.uniform(0.1, 0.9)) / STEPS
    others = rng.uniform(nearest + 0.25, 5.6, rng.integers(0, round(level.clutter) + 1))
    spread = list(rng.permutation(np.linspace(5, SIDE - 5, len(others) + 1)))
    for d, x in zip(sorted([nearest, *others], reverse=True), spread, strict=True):
        radius = 10 * np.exp(rng.uniform(-0.28, 0.28) * level.fineness) / d
        foot = horizon + 30 * height / d
        tint = against(rng, base, level.contrast) + rng.normal(0, 25, 3)
        image = _thing(image, rng, tint, x + rng.uniform(-2, 2), min(foot, SIDE + 1) - radius * 0.8, radius)
    return finish(image, rng, light=0.3, noise=level.noise)
