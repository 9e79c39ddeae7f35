"""Structured group: where a sprite is, which way it points, how many things there are, how far the nearest one is."""

from __future__ import annotations

import numpy as np

from karst_bench.data.mini.drawing import (
    SIDE,
    Mask,
    Points,
    brighter,
    clouds,
    colour,
    ellipse_points,
    finish,
    grid,
    ground,
    paint,
    place,
)

COLUMNS = 8  # location: columns of 3 pixels from 4 to 28
TURNS = 8  # orientation: eighths of a full turn
FEWEST = 2  # count: 2 .. 9 things
STEPS = 6  # distance


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return list(zip(x, y, strict=True))


SPRITES: tuple[Points, ...] = (
    _heart(),
    ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    ellipse_points(0, 0, 1.1, 0.7, 0.0),
    ((0, -1.2), (1, 0.2), (0.4, 0.2), (0.4, 1), (-0.4, 1), (-0.4, 0.2), (-1, 0.2)),
    tuple((r * np.sin(k * np.pi / 5), -r * np.cos(k * np.pi / 5)) for k in range(10) for r in [(1.2, 0.5)[k % 2]]),
)


def _litter(image: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    """Small specks and short strokes of any colour: what an eye must look past."""
    for _ in range(rng.integers(0, most + 1)):
        x, y = rng.uniform(1, SIDE - 1, 2)
        way, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 3.5)
        stroke = [(x, y), (x + length * np.cos(way), y + length * np.sin(way))]
        mask = Mask().line(stroke, 1.1).disc(x, y, rng.uniform(0.4, 1.0)).soft()
        image = paint(image, mask * rng.uniform(0.4, 1), colour(rng, 0, 200))
    return image


def location(label: int, rng: np.random.Generator, split: str) -> np.ndarray:
    """A sprite of any form, size, turn and colour among litter; the label is the column that its middle lies in."""
    base = colour(rng, 10, 80)
    image = _litter(ground(rng, base, rng.uniform(3, 12)), rng, 5)
    x = 4 + 3 * (label + rng.uniform(0.1, 0.9))
    y = rng.uniform(5, SIDE - 5)
    points = place(SPRITES[rng.integers(len(SPRITES))], x, y, rng.uniform(3, 4.8), rng.uniform(0, 2 * np.pi))
    ink = brighter(rng, base, 105)
    return finish(paint(image, Mask().polygon(points).soft(), ink), rng, light=0.3, noise=8)


def _boat(rng: np.random.Generator) -> Points:
    """A long form with a bow and a stern of its own: slim or stout, notched behind or flat."""
    stout, notch, neck = rng.uniform(0.35, 0.6), rng.uniform(-0.1, 0.45), rng.uniform(-0.2, 0.5)
    return ((1.1, 0), (neck, stout), (-1, stout), (-1 + notch, 0), (-1, -stout), (neck, -stout))


def orientation(label: int, rng: np.random.Generator, split: str) -> np.ndarray:
    """A boat seen from above on litter and waves; the label is the eighth of the turn that its bow points to."""
    base = colour(rng, 10, 80)
    image = _litter(ground(rng, base, rng.uniform(3, 12)), rng, 4)
    x, y = SIDE / 2 + rng.uniform(-2.5, 2.5, 2)
    turn = 2 * np.pi * (label + rng.uniform(-0.38, 0.38)) / TURNS
    size = rng.uniform(8, 11.5)
    ink = brighter(rng, base, 105)
    image = paint(image, Mask().polygon(place(_boat(rng), x, y, size, turn)).soft(), ink)
    (bridge,) = place([(rng.uniform(-0.5, 0.3), 0)], x, y, size, turn)
    image = paint(image, Mask().disc(*bridge, size * 0.16).soft(), colour(rng, 0, 255))
    return finish(image, rng, light=0.3, noise=8)


def _thing(image: np.ndarray, rng: np.random.Generator, x: float, y: float, r: float) -> np.ndarray:
    """A ball, a box or a drum of radius r with light from above left and a shadow on the floor."""
    shadow = Mask().polygon(ellipse_points(x + 0.4 * r, y + 0.75 * r, 1.1 * r, 0.45 * r, 0)).soft()
    image = paint(image, shadow * 0.45, np.full(3, 20.0))
    tint, px = colour(rng, 20, 235), grid()
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


def _floor(rng: np.random.Generator, horizon: float) -> np.ndarray:
    """A floor that grows lighter towards the viewer, and a wall behind it."""
    _, y = grid()
    base = np.full(3, rng.uniform(75, 190)) + rng.normal(0, 10, 3)
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


def count(label: int, rng: np.random.Generator, split: str) -> np.ndarray:
    """Two to nine balls, boxes and drums of any size and colour on a floor; the label is their number less two."""
    image = _floor(rng, rng.uniform(-2, 6))
    for x, y in _spots(FEWEST + label, rng, 5.6):
        image = _thing(image, rng, x, y, rng.uniform(2.0, 3.7))
    return finish(image, rng, light=0.3, noise=7)


def distance(label: int, rng: np.random.Generator, split: str) -> np.ndarray:
    """Two to five things on a floor in perspective; the label is the nearest one's distance in six steps.

    At distance d (1.2 to 4.8) a thing stands 30 h / d pixels below the horizon and is 10 s / d pixels in radius; the
    horizon, the camera's height h and the things' own size s vary, so neither place nor size alone tells d.
    """
    horizon, height = rng.uniform(3, 10), rng.uniform(0.7, 0.95)
    image = _floor(rng, horizon)
    nearest = 1.2 + 3.0 * (label + rng.uniform(0.1, 0.9)) / STEPS
    others = rng.uniform(nearest + 0.25, 5.6, rng.integers(1, 5))
    spread = list(rng.permutation(np.linspace(5, SIDE - 5, len(others) + 1)))
    for d, x in zip(sorted([nearest, *others], reverse=True), spread, strict=True):
        radius = 10 * rng.uniform(0.75, 1.3) / d
        foot = horizon + 30 * height / d
        image = _thing(image, rng, x + rng.uniform(-2, 2), min(foot, SIDE + 1) - radius * 0.8, radius)
    return finish(image, rng, light=0.3, noise=6)
