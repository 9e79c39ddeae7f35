"""Specialized group: land seen from above, and cells under a microscope."""

from collections.abc import Callable

import numpy as np

from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.data.mini.drawing import SIDE, Mask, clouds, ellipse_points, finish, grid, ground, paint, place

GRASS, SOIL, WATER, LEAVES, ROOF = (
    np.array(c, dtype=float) for c in ((112, 128, 84), (134, 112, 88), (84, 100, 100), (70, 92, 66), (150, 132, 124))
)
GREY = np.array((128.0, 124.0, 120.0))
WARM = np.array((1.0, 0.0, -1.0))  # what a class's colour is moved along: no lighter and no darker for it


def _shade(rng: np.random.Generator, colour: np.ndarray, spread: float = 20) -> np.ndarray:
    """`colour`, lighter or darker and a little tinted: the season, the hour, the soil."""
    return np.clip(colour + rng.normal(0, spread) + rng.normal(0, spread * 0.3, 3), 15, 240)


def _open_land(rng: np.random.Generator) -> np.ndarray:
    """Ground of any kind and warmth, so that its colour tells nothing."""
    kinds = (GRASS, SOIL, LEAVES, GREY)
    base = _shade(rng, kinds[rng.integers(len(kinds))], 16) + WARM * rng.normal(0, 16)
    return ground(rng, base, rng.uniform(6, 16))


def _across(rng: np.random.Generator, bend: float) -> list[tuple[float, float]]:
    """A way through the image from edge to edge, bent by up to `bend` pixels."""
    along = np.linspace(-6, SIDE + 6, 9)
    swing = np.cumsum(rng.normal(0, bend, 9))
    swing += rng.uniform(8, SIDE - 8) - swing[4]
    turn = rng.uniform(0, 2 * np.pi)
    points = [(a - SIDE / 2, s - SIDE / 2) for a, s in zip(along, swing, strict=True)]
    return list(place(points, SIDE / 2, SIDE / 2, 1.0, turn))


def _forest(rng: np.random.Generator, warm: np.ndarray, fineness: float) -> np.ndarray:
    """Crowns close together: needles (cool) or leaves (warm)."""
    image = ground(rng, _shade(rng, LEAVES) + warm, 8)
    for _ in range(rng.integers(60, 110)):
        x, y = rng.uniform(0, SIDE, 2)
        crown = Mask().disc(x, y, rng.uniform(1.6, 3.0) / fineness).soft()
        image = paint(image, crown * 0.7, _shade(rng, LEAVES, 14) + warm)
    return image


def _crops(rng: np.random.Generator, warm: np.ndarray, fineness: float) -> np.ndarray:
    """Parallel rows, two fields meeting at an edge: green (cool) or ripe (warm)."""
    x, y = grid()
    image = ground(rng, _shade(rng, GRASS) + warm, 8)
    edge, turn = rng.uniform(8, 24), rng.uniform(0, np.pi)
    for side in (0, 1):
        way = turn + rng.uniform(-0.15, 0.15) + (np.pi / 2 if rng.random() < 0.3 else 0)
        rows = np.sin(2 * np.pi * (np.cos(way) * x + np.sin(way) * y) * fineness / rng.uniform(3.2, 5.5))
        field = image + rows[..., None] * rng.uniform(7, 22) + rng.normal(0, 14) * side
        image = np.where((x * np.cos(turn) + y * np.sin(turn) > edge)[..., None] == bool(side), field, image)
    return image


def _lake(rng: np.random.Generator, warm: np.ndarray, fineness: float) -> np.ndarray:
    """Water on open land: clear (cool) or muddy (warm)."""
    x, y = rng.uniform(10, 22, 2)
    a, b = rng.uniform(7, 13) / fineness, rng.uniform(6, 10) / fineness
    shore = ellipse_points(x, y, a, b, rng.uniform(0, np.pi), rng.normal(0, 0.1, 3))
    return paint(_open_land(rng), Mask().polygon(shore).soft(), _shade(rng, WATER) + warm)


def _houses(rng: np.random.Generator, warm: np.ndarray, fineness: float) -> np.ndarray:
    """Roofs in rows with their shadows: slate (cool) or tiles (warm)."""
    image = _open_land(rng)
    turn, pitch = rng.uniform(0, np.pi), rng.uniform(6.5, 9) / fineness
    for row in np.arange(-24, 25, pitch):
        for along in np.arange(-24, 25, pitch):
            if rng.random() < 0.8:
                (x, y) = place([(along, row)], SIDE / 2, SIDE / 2, 1, turn)[0]
                a, b = pitch * rng.uniform(0.25, 0.34), pitch * rng.uniform(0.2, 0.27)
                corners = ((-a, -b), (a, -b), (a, b), (-a, b))
                x, y = x + rng.normal(0, 0.6), y + rng.normal(0, 0.6)
                shadow = Mask().polygon(place(corners, x + 0.8, y + 0.8, 1, turn)).soft()
                image = paint(image, shadow * 0.6, np.full(3, 25.0))
                roof = _shade(rng, ROOF, 22) + warm
                image = paint(image, Mask().polygon(place(corners, x, y, 1, turn)).soft(), roof)
    return image


LAND: tuple[Callable[[np.random.Generator, np.ndarray, float], np.ndarray], ...] = (_forest, _crops, _lake, _houses)


def landuse(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """Land from above: forest, crops, lake or houses (label // 2), each cool or warm in colour (label % 2).

    The two colours lie `contrast` levels apart in red and in blue, at any lightness, under light of any tint; roads and
    trees (`clutter`) lie on all of them.
    """
    image = LAND[label // 2](rng, WARM * level.contrast * (label % 2 - 0.5), level.fineness)
    for _ in range(rng.integers(0, round(level.clutter) + 1)):
        if rng.random() < 0.4:
            image = paint(image, Mask().line(_across(rng, 0.25), rng.uniform(1.2, 2.6)).soft(), _shade(rng, GREY, 30))
        else:
            x, y = rng.uniform(0, SIDE, 2)
            tree = _shade(rng, LEAVES) + WARM * rng.normal(0, 25)
            image = paint(image, Mask().disc(x, y, rng.uniform(1, 3)).soft(), tree)
    haze = np.clip(clouds(rng, (2, 3)) * rng.uniform(0, 0.22), 0, 0.5)
    image = paint(image, haze, np.full(3, 215.0)) + rng.normal(0, 6, 3)
    return finish(image, rng, light=0.3, noise=level.noise)


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


def cells(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """The cell in the middle by the form of its nucleus; others, cut off at the rim or out of focus, lie about.

    The picture is as grainy as that of a weak beam: besides `noise`, coarser grain of the same strength.
    """
    plasma = np.array((200.0, 178.0, 192.0)) + rng.normal(0, 14, 3)
    body = plasma - rng.uniform(8, 30) + rng.normal(0, 6, 3)
    stain = body - np.array((1.05, 1.2, 0.75)) * level.contrast * rng.uniform(0.8, 1.2) + rng.normal(0, 8, 3)
    image = ground(rng, plasma, rng.uniform(3, 12))
    for _ in range(rng.integers(0, round(level.clutter) + 1)):
        way, r = rng.uniform(0, 2 * np.pi), rng.uniform(5, 9)
        x, y = SIDE / 2 + 17 * np.cos(way), SIDE / 2 + 17 * np.sin(way)
        image = paint(image, Mask().disc(x, y, r).soft() * 0.7, body)
        image = paint(image, _nucleus(int(rng.integers(8)), rng, x, y, r, rng.uniform(0, 6.3)) * 0.6, stain)
    x, y = SIDE / 2 + rng.uniform(-1.5, 1.5, 2) * level.fineness
    r, turn = rng.uniform(9.5, 13) / level.fineness, rng.uniform(0, 2 * np.pi)
    wall = ellipse_points(x, y, r, r * rng.uniform(0.85, 1), turn, rng.normal(0, 0.04, 3))
    image = paint(image, Mask().polygon(wall).soft(), body)
    image = paint(image, _nucleus(label, rng, x, y, r, turn), stain)
    grain = clouds(rng, (16,)) * rng.uniform(0.3, 1) * level.noise
    return finish(image + grain[..., None], rng, light=0.2, noise=level.noise)
