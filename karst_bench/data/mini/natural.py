"""Natural group: handwritten digits, printed letters, textures."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.data.mini.drawing import (
    SIDE,
    Mask,
    against,
    clouds,
    colour,
    fine_size,
    finish,
    grid,
    ground,
    litter,
    paint,
)
from karst_bench.data.mini.fonts import LATIN, face

LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"


@lru_cache(maxsize=1)
def _handwriting() -> dict[tuple[str, int], np.ndarray]:
    """scikit-learn's 8 x 8 digits by (split, digit): half of each for training, a tenth for val, the rest test."""
    source = load_digits()
    pools = {}
    for digit in range(10):
        images = source.images[source.target == digit] / 16
        train, val = len(images) // 2, len(images) // 2 + len(images) // 10
        pools["train800", digit], pools["val200", digit], pools["test", digit] = np.split(images, [train, val])
    return pools


def _digit_mask(image: np.ndarray, size: float, x: float, y: float, turn: float) -> np.ndarray:
    """An 8 x 8 digit blown up to `size` pixels, turned, with its middle at (x, y): (32, 32)."""
    scale = 8 / size
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    # PIL wants the map from the result's pixels to the source's
    matrix = (cos, sin, 4 - cos * x - sin * y, -sin, cos, 4 + sin * x - cos * y)
    source = Image.fromarray(image.astype(np.float32))
    out = source.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC)
    return np.clip(np.asarray(out, dtype=np.float64), 0, 1)


def digits(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """A handwritten digit in the middle, parts of others beside it, strokes across, lighter or darker than its ground."""
    pools = _handwriting()
    base = colour(rng, 40, 200)
    image = ground(rng, base, rng.uniform(3, 14))
    ink = against(rng, base, level.contrast)
    size = rng.uniform(20, 26) / level.fineness
    x, y = SIDE / 2 + rng.uniform(-1.5, 1.5, 2) * level.fineness
    for side in (-1, 1):
        other = pools[split, int(rng.integers(10))]
        if rng.random() < 0.5:
            at = x + side * size * rng.uniform(0.7, 0.9)
            image = paint(image, _digit_mask(other[rng.integers(len(other))], size, at, y + rng.uniform(-2, 2), 0), ink)
    own = pools[split, label]
    mask = _digit_mask(own[rng.integers(len(own))], size, x, y, rng.uniform(-0.25, 0.25))
    image = litter(paint(image, mask, ink), rng, level.clutter, ink)
    return finish(image, rng, noise=level.noise)


def glyphs(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """One of 25 capital letters in one of fifteen faces, moved, turned and tinted, over stripes or clouds."""
    base = colour(rng, 40, 200)
    image = ground(rng, base, rng.uniform(3, 12))
    image += _stripes(rng, rng.uniform(3, 7), 0.15)[..., None] * rng.uniform(0, 0.3) * level.contrast
    size = rng.uniform(20, 27) / level.fineness
    font = face(LATIN[rng.integers(len(LATIN))], fine_size(size))
    x, y = SIDE / 2 + rng.uniform(-2, 2, 2) * level.fineness
    mask = Mask().letter(LETTERS[label], font, x, y).turned(rng.uniform(-15, 15), x, y).soft()
    ink = against(rng, base, level.contrast)
    image = paint(image, mask, ink + clouds(rng)[..., None] * rng.uniform(0, 10))
    return finish(litter(image, rng, level.clutter, ink), rng, noise=level.noise)


def _warped(rng: np.random.Generator, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates turned at random and bent by smooth noise of `bend` pixels."""
    x, y = grid()
    x, y = x + bend * clouds(rng, (2, 3)), y + bend * clouds(rng, (2, 3))
    turn = rng.uniform(-0.6, 0.6)
    u = np.cos(turn) * x + np.sin(turn) * y + rng.uniform(0, SIDE)
    v = -np.sin(turn) * x + np.cos(turn) * y + rng.uniform(0, SIDE)
    return u, v


def _stripes(rng: np.random.Generator, period: float, bend: float) -> np.ndarray:
    u, _ = _warped(rng, bend)
    return np.sin(2 * np.pi * u / period)


def _checks(rng: np.random.Generator, period: float) -> np.ndarray:
    u, v = _warped(rng, 0.3)
    return np.sign(np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period))


def _dots(rng: np.random.Generator, period: float, share: float) -> np.ndarray:
    u, v = _warped(rng, 0.4)
    far = np.hypot(np.mod(u, period) - period / 2, np.mod(v, period) - period / 2) / period
    return np.clip((share - far) * period, -1, 1)


def _bricks(rng: np.random.Generator, period: float) -> np.ndarray:
    u, v = _warped(rng, 0.3)
    row = np.floor(v / period)
    along = np.mod(u + row * period, 2 * period)
    return np.where((np.mod(v, period) < 1.1) | (along < 1.1), -1.0, 1.0)


def _scales(rng: np.random.Generator, period: float) -> np.ndarray:
    u, v = _warped(rng, 0.3)
    row = np.floor(v / period)
    along = np.mod(u + row * period / 2, period) - period / 2
    return np.sin(np.pi * np.hypot(along, np.mod(v, period)) / period * 1.8)


def _zigzag(rng: np.random.Generator, period: float) -> np.ndarray:
    u, v = _warped(rng, 0.3)
    fold = np.abs(np.mod(u, 2 * period) - period)
    return np.sin(2 * np.pi * (v + fold) / period)


def _weave(rng: np.random.Generator, period: float) -> np.ndarray:
    u, v = _warped(rng, 0.3)
    over = np.sign(np.sin(np.pi * u / period) * np.sin(np.pi * v / period))
    return np.where(over > 0, np.cos(2 * np.pi * u / period), np.cos(2 * np.pi * v / period))


def _cells(rng: np.random.Generator, period: float) -> np.ndarray:
    x, y = grid()
    seeds = rng.uniform(-4, SIDE + 4, (int((SIDE + 8) ** 2 / period**2), 2))
    far = np.sort(np.hypot(x[..., None] - seeds[:, 0], y[..., None] - seeds[:, 1]), axis=-1)
    return np.clip(far[..., 1] - far[..., 0], 0, 2.5) - 1.2


def _marble(rng: np.random.Generator, period: float) -> np.ndarray:
    return np.sin(2 * np.pi * _warped(rng, period * 0.8)[0] / period / 1.3)


def _grain(rng: np.random.Generator, period: float) -> np.ndarray:
    count = max(3, round(1.6 * SIDE / period))
    return clouds(rng, (count, 2 * count))


TEXTURES: tuple[Callable[[np.random.Generator, float], np.ndarray], ...] = (
    lambda rng, period: _stripes(rng, period, 0.3),
    _checks,
    lambda rng, period: _dots(rng, period, 0.3),
    _bricks,
    _scales,
    _zigzag,
    _weave,
    _cells,
    _marble,
    _grain,
)


def textures(label: int, rng: np.random.Generator, split: str, level: Difficulty) -> np.ndarray:
    """One of ten patterns at any scale, turn and colour, under slanted light, blotches and noise."""
    pattern = TEXTURES[label](rng, rng.uniform(5, 9) / level.fineness)
    dark = colour(rng, 30, 200)
    bright = against(rng, dark, level.contrast)
    share = np.clip(0.5 + 0.5 * pattern, 0, 1)
    image = paint(np.broadcast_to(dark, (SIDE, SIDE, 3)), share, bright)
    image = litter(image + clouds(rng)[..., None] * rng.uniform(0, 15), rng, level.clutter, (dark + bright) / 2)
    return finish(image, rng, light=0.4, noise=level.noise)
