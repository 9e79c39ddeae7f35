"""Specialized group: land seen from above, and cells under a microscope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from karst_bench.data.mini.drawing import SIDE, Mask, clouds, ellipse_points, finish, grid, ground, paint, place

GRASS, SOIL, WATER, LEAVES = (
    np.array(c, dtype=float) for c in ((112, 128, 84), (134, 112, 88), (70, 92, 112), (62, 86, 60))
)
GREY = np.array((128.0, 124.0, 120.0))


def _shade(rng: np.random.Generator, colour: np.ndarray, spread: float = 20) -> np.ndarray:
    """`colour`, lighter or darker and tinted: the season, the hour, the soil."""
    return np.clip(colour + rng.normal(0, spread) + rng.normal(0, spread * 0.6, 3), 15, 240)


def _open_land(rng: np.random.Generator) -> np.ndarray:
    """Ground of any kind, so that its colour alone tells little."""
    kinds = (GRASS, SOIL, LEAVES, GREY)
    return ground(rng, _shade(rng, kinds[rng.integers(len(kinds))], 16), rng.uniform(6, 16))


def _across(rng: np.random.Generator, bend: float) -> list[tuple[float, float]]:
    """A way through the image from edge to edge, bent by up to `bend` pixels."""
    along = np.linspace(-6, SIDE + 6, 9)
    swing = np.cumsum(rng.normal(0, bend, 9))
    swing += rng.uniform(8, SIDE - 8) - swing[4]
    turn = rng.uniform(0, 2 * np.pi)
    points = [(a - SIDE / 2, s - SIDE / 2) for a, s in zip(along, swing, strict=True)]
    return list(place(points, SIDE / 2, SIDE / 2, 1.0, turn))


def _forest(rng: np.random.Generator) -> np.ndarray:
    image = ground(rng, _shade(rng, LEAVES), 8)
    for _ in range(rng.integers(60, 110)):
        x, y = rng.uniform(0, SIDE, 2)
        crown = Mask().disc(x, y, rng.uniform(1.2, 2.4)).soft()
        image = paint(image, crown * 0.7, _shade(rng, LEAVES, 14))
    return image


def _crops(rng: np.random.Generator) -> np.ndarray:
    """Parallel rows, two fields meeting at an edge."""
    x, y = grid()
    image = ground(rng, _shade(rng, (GRASS, SOIL)[rng.integers(2)]), 8)
    edge, turn = rng.uniform(8, 24), rng.uniform(0, np.pi)
    for side in (0, 1):
        way = turn + rng.uniform(-0.15, 0.15) + (np.pi / 2 if rng.random() < 0.3 else 0)
        rows = np.sin(2 * np.pi * (np.cos(way) * x + np.sin(way) * y) / rng.uniform(2.6, 4.5))
        field = image + rows[..., None] * rng.uniform(7, 22) + rng.normal(0, 14, 3) * side
        image = np.where((x * np.cos(turn) + y * np.sin(turn) > edge)[..., None] == bool(side), field, image)
    return image


def _pasture(rng: np.random.Generator) -> np.ndarray:
    image = ground(rng, _shade(rng, (GRASS, SOIL)[rng.integers(2)]), rng.uniform(10, 22))
    for _ in range(rng.integers(0, 7)):
        x, y = rng.uniform(0, SIDE, 2)
        image = paint(image, Mask().disc(x, y, rng.uniform(0.8, 2.0)).soft(), _shade(rng, LEAVES))
    return image


def _river(rng: np.random.Generator) -> np.ndarray:
    return paint(_open_land(rng), Mask().line(_across(rng, 3.2), rng.uniform(3, 8)).soft(), _shade(rng, WATER))


def _road(rng: np.random.Generator) -> np.ndarray:
    image = _open_land(rng)
    for _ in range(rng.integers(1, 3)):
        way, width = _across(rng, 0.25), rng.uniform(2.2, 4.5)
        image = paint(image, Mask().line(way, width).soft(), _shade(rng, GREY))
        image = paint(image, Mask().line(way, 0.5).soft() * 0.8, np.array((220.0, 220.0, 200.0)))
    return image


def _houses(rng: np.random.Generator) -> np.ndarray:
    image = _open_land(rng)
    turn, pitch = rng.uniform(0, np.pi), rng.uniform(5.5, 7.5)
    for row in np.arange(-24, 25, pitch):
        for along in np.arange(-24, 25, pitch):
            if rng.random() < 0.8:
                (x, y) = place([(along, row)], SIDE / 2, SIDE / 2, 1, turn)[0]
                x, y = x + rng.normal(0, 0.6), y + rng.normal(0, 0.6)
                image = _roof(image, rng, x, y, rng.uniform(1.4, 2.2), rng.uniform(1.2, 1.8), turn)
    return image


def _halls(rng: np.random.Generator) -> np.ndarray:
    image = _open_land(rng)
    turn = rng.uniform(0, np.pi)
    for _ in range(rng.integers(3, 6)):
        x, y = rng.uniform(3, SIDE - 3, 2)
        image = _roof(image, rng, x, y, rng.uniform(4, 8), rng.uniform(2.8, 5), turn)
    return image


def _roof(
    image: np.ndarray, rng: np.random.Generator, x: float, y: float, a: float, b: float, turn: float
) -> np.ndarray:
    """A roof of half sides a, b with its shadow."""
    corners = ((-a, -b), (a, -b), (a, b), (-a, b))
    image = paint(image, Mask().polygon(place(corners, x + 0.8, y + 0.8, 1, turn)).soft() * 0.6, np.full(3, 25.0))
    roof = _shade(rng, np.array((158.0, 140.0, 132.0)), 26)
    return paint(image, Mask().polygon(place(corners, x, y, 1, turn)).soft(), roof)


def _lake(rng: np.random.Generator) -> np.ndarray:
    x, y = rng.uniform(10, 22, 2)
    shore = ellipse_points(x, y, rng.uniform(6, 12), rng.uniform(5, 9), rng.uniform(0, np.pi), rng.normal(0, 0.1, 3))
    return paint(_open_land(rng), Mask().polygon(shore).soft(), _shade(rng, WATER))


LAND: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (
    _forest, _crops, _pasture, _river, _road, _houses, _halls, _lake,
)  # fmt: skip


def landuse(label: int, rng: np.random.Generator, split: str) -> np.ndarray:
    """Land from above: forest, crops, pasture, river, road, houses, halls or lake, in any season, with haze."""
    image = LAND[label](rng)
    haze = np.clip(clouds(rng, (2, 3)) * rng.uniform(0, 0.22), 0, 0.5)
    return finish(paint(image, haze, np.full(3, 215.0)), rng, light=0.3, noise=12)


def _nucleus(kind: int, rng: np.random.Generator, x: float, y: float, r: float, turn: float) -> np.ndarray:
    """The stained part of a cell of radius r at (x, y): one of eight forms, as a mask."""
    mask = Mask()
    if kind == 0:  # one round
        return mask.disc(x, y, 0.55 * r).soft()
    if kind == 1:  # one long
        return mask.polygon(ellipse_points(x, y, 0.78 * r, 0.36 * r, turn)).soft()
    if kind == 2:  # a kidney: a disc with a bay
        (bay,) = place([(0.42, 0)], x, y, r, turn)
        return mask.disc(x, y, 0.62 * r).disc(*bay, 0.36 * r, cut=True).soft()
    if kind in (3, 4):  # two or three lobes
        count = kind - 1
        ring = [turn + 2 * np.pi * i / count + rng.normal(0, 0.12) for i in range(count)]
        lobes = [(x + 0.4 * r * np.cos(t), y + 0.4 * r * np.sin(t)) for t in ring]
        for lobe in lobes:
            mask.disc(*lobe, 0.29 * r)
        return mask.line([*lobes, lobes[0]], 0.14 * r).soft()
    if kind == 5:  # a ring
        return mask.disc(x, y, 0.64 * r).disc(x, y, 0.36 * r, cut=True).soft()
    if kind == 6:  # dividing: two plates face to face
        for side in (-1, 1):
            plate = place([(0.3 * side, -0.55), (0.3 * side, 0.55)], x, y, r, turn)
            mask.line(plate, 0.26 * r)
        return mask.soft()
    for _ in range(11):  # broken into grains
        far, way = 0.68 * r * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        mask.disc(x + far * np.cos(way), y + far * np.sin(way), 0.13 * r)
    return mask.soft()


def cells(label: int, rng: np.random.Generator, split: str) -> np.ndarray:
    """The cell in the middle by the form of its nucleus; others, cut off at the rim or out of focus, lie about."""
    plasma = np.array((214.0, 186.0, 204.0)) + rng.normal(0, 14, 3)
    body = plasma - rng.uniform(12, 45) + rng.normal(0, 9, 3)
    stain = body - np.array((75.0, 85.0, 35.0)) * rng.uniform(0.65, 1.0) + rng.normal(0, 10, 3)
    image = ground(rng, plasma, rng.uniform(3, 12))
    for _ in range(rng.integers(1, 5)):
        way, r = rng.uniform(0, 2 * np.pi), rng.uniform(5, 9)
        x, y = SIDE / 2 + 18 * np.cos(way), SIDE / 2 + 18 * np.sin(way)
        image = paint(image, Mask().disc(x, y, r).soft() * 0.7, body)
        image = paint(image, _nucleus(int(rng.integers(8)), rng, x, y, r, rng.uniform(0, 6.3)) * 0.6, stain)
    x, y = rng.uniform(14.5, 17.5, 2)
    r, turn = rng.uniform(9, 12.5), rng.uniform(0, 2 * np.pi)
    wall = ellipse_points(x, y, r, r * rng.uniform(0.85, 1), turn, rng.normal(0, 0.04, 3))
    image = paint(image, Mask().polygon(wall).soft(), body)
    image = paint(image, _nucleus(label, rng, x, y, r, turn), stain)
    return finish(image + clouds(rng, (8, 16))[..., None] * rng.uniform(0, 8), rng, light=0.2, noise=8)
