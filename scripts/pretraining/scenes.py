"""Pretext scenes: one to five plain shapes on a cloudy ground, with where they are and how they lie.

These teach the small backbones position, orientation and number, which CIFAR-10's classes do not. They share no
generator, object, colour rule or label with the mini tasks: shapes here are flat figures given by implicit functions,
and what is asked are dense maps, regressions, and the number of figures.
"""

from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

SIDE = 32  # pixels
GRID = 8  # cells of the dense targets along a side, 4 pixels each
FAMILIES = 8
COUNTS = 5
_CHUNK = 250
_TURNLESS = (3, 4)  # ring and cross carry no half-turn orientation


@dataclass(frozen=True)
class Scenes:
    """Scenes and what is asked of them.

    pixels uint8 (n, 3, 32, 32); dense float32 (n, 4, 8, 8): covered share, centre inside, cos 2t and sin 2t times
    share; count int64 (n,) in 0..4 (one to five objects); of the largest object: family int64 (n,), pose float32
    (n, 4) = (x, y) in -1..1 and (cos 2t, sin 2t), 0 where it has no orientation.
    """

    pixels: np.ndarray
    dense: np.ndarray
    count: np.ndarray
    family: np.ndarray
    pose: np.ndarray


def make_scenes(n: int, seed: int, workers: int = 1) -> Scenes:
    """n scenes, the same for the same seed and n, drawn by so many processes."""
    jobs = [(min(_CHUNK, n - start), seed, start) for start in range(0, n, _CHUNK)]
    if workers > 1:
        with get_context("spawn").Pool(workers) as pool:
            parts = pool.starmap(_chunk, jobs)
    else:
        parts = [_chunk(*job) for job in jobs]
    return Scenes(*(np.concatenate([getattr(p, f) for p in parts]) for f in Scenes.__dataclass_fields__))


def _chunk(n: int, seed: int, start: int) -> Scenes:
    """n scenes; those of one chunk share a random stream named by the seed and the number of the first."""
    rng = np.random.default_rng([seed, start])
    count = rng.integers(0, COUNTS, n)
    family = rng.integers(0, FAMILIES, (n, COUNTS))
    angle = rng.uniform(0, 2 * np.pi, (n, COUNTS))
    centre = rng.uniform(3, SIDE - 3, (n, COUNTS, 2))
    radius = rng.uniform(2.5, 5.0, (n, COUNTS))
    # object `count` is painted last and is the largest: the one that the pose and the family speak of
    rows = np.arange(n)
    radius[rows, count] = rng.uniform(6.0, 9.5, n)
    alpha = _coverage(family, angle, centre, radius)
    alpha[np.arange(COUNTS)[None] > count[:, None]] = 0
    pixels = _paint(_ground(n, rng), alpha, rng)
    turn = np.stack([np.cos(2 * angle), np.sin(2 * angle)], axis=-1) * ~np.isin(family, _TURNLESS)[..., None]
    position = centre[rows, count] / (SIDE / 2) - 1
    return Scenes(
        pixels=pixels,
        dense=_dense(alpha, centre, count, turn),
        count=count.astype(np.int64),
        family=family[rows, count].astype(np.int64),
        pose=np.concatenate([position, turn[rows, count]], axis=1).astype(np.float32),
    )


def _coverage(family: np.ndarray, angle: np.ndarray, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How far each pixel lies inside each shape, 0..1: (n, objects, 32, 32)."""
    at = np.arange(SIDE, dtype=np.float32) + 0.5
    dx = at[None, None, None, :] - centre[..., 0, None, None]
    dy = at[None, None, :, None] - centre[..., 1, None, None]
    cos, sin = np.cos(angle)[..., None, None], np.sin(angle)[..., None, None]
    size = radius[..., None, None]
    u, v = (cos * dx + sin * dy) / size, (-sin * dx + cos * dy) / size
    inside = np.empty(u.shape, dtype=np.float32)
    for number in range(FAMILIES):
        chosen = family == number
        inside[chosen] = _implicit(number, u[chosen], v[chosen])
    return 1 / (1 + np.exp(np.clip(inside * size / 0.4, -30, 30)))


def _implicit(number: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Below 0 inside the shape, above outside; u, v in units of its radius."""
    disc = np.hypot(u, v) - 1
    shapes = (
        lambda: np.hypot(u, v / 0.5) - 1,  # ellipse
        lambda: np.maximum(np.abs(u), np.abs(v) / 0.55) - 1,  # rectangle
        lambda: np.maximum(np.abs(v) / 0.8 + (u + 1) / 2 - 1, -u - 1),  # triangle
        lambda: np.abs(np.hypot(u, v) - 0.75) - 0.25,  # ring
        lambda: np.minimum(np.maximum(np.abs(u), 3 * np.abs(v)), np.maximum(np.abs(v), 3 * np.abs(u))) - 1,  # cross
        lambda: np.maximum(np.abs(u), np.abs(v) / 0.22) - 1,  # stick
        lambda: np.maximum(disc, 0.8 - np.hypot(u - 0.6, v)),  # crescent
        lambda: np.maximum(disc, -v),  # half disc
    )
    return shapes[number]()


def _ground(n: int, rng: np.random.Generator) -> np.ndarray:
    """Cloudy coloured grounds with fine noise, float (n, 3, 32, 32) in 0..255."""
    ground = np.repeat(rng.uniform(30, 225, (n, 3, 1, 1)), SIDE, axis=2).repeat(SIDE, axis=3)
    for cells, strength in ((2, 30.0), (4, 25.0), (8, 20.0)):
        coarse = rng.normal(0, 1, (n, 3, cells, cells)) * rng.uniform(0, strength, (n, 1, 1, 1))
        ground += np.repeat(np.repeat(coarse, SIDE // cells, axis=2), SIDE // cells, axis=3)
    return ground + rng.normal(0, 1, ground.shape) * rng.uniform(0, 14, (n, 1, 1, 1))


def _paint(ground: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for number in range(alpha.shape[1]):
        colour = rng.uniform(0, 255, (len(ground), 3, 1, 1))
        shade = colour + rng.normal(0, 1, ground.shape) * rng.uniform(0, 20, (len(ground), 1, 1, 1))
        cover = alpha[:, number, None]
        ground = cover * shade + (1 - cover) * ground
    return np.clip(ground, 0, 255).astype(np.uint8)


def _dense(alpha: np.ndarray, centre: np.ndarray, count: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Per cell: covered share, whether an object's centre lies in it, and cos 2t, sin 2t of what covers it most."""
    n, objects = alpha.shape[:2]
    step = SIDE // GRID
    share = alpha.reshape(n, objects, GRID, step, GRID, step).mean(axis=(3, 5))
    top = share.argmax(axis=1)
    most = share.max(axis=1)
    dense = np.zeros((n, 4, GRID, GRID), dtype=np.float32)
    dense[:, 0] = most
    cell = np.floor(centre / step).astype(int)
    for number in range(objects):
        there = np.flatnonzero(number <= count)
        dense[there, 1, cell[there, number, 1], cell[there, number, 0]] = 1
    per_object = np.take_along_axis(turn, top.reshape(n, -1)[..., None], axis=1).reshape(n, GRID, GRID, 2)
    dense[:, 2:] = per_object.transpose(0, 3, 1, 2) * most[:, None]
    return dense
