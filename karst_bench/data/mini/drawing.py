"""What the generators draw with: soft masks, grounds, colours, light. Images are float (32, 32, 3) in 0..255."""

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from karst_bench.data.mini.fonts import to_middle

SIDE = 32  # pixels of a finished image along a side
_FINE = 4  # masks are drawn this much finer and averaged, so edges are soft
Points = Sequence[tuple[float, float]]


class Mask:
    """A soft mask (32, 32) in 0..1, built from polygons, discs, lines and characters in pixel coordinates (x, y)."""

    def __init__(self) -> None:
        self._image = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Points, *, cut: bool = False) -> Self:
        """Fills the polygon (cut=True takes it out again)."""
        self._draw.polygon([(x * _FINE, y * _FINE) for x, y in points], fill=0 if cut else 255)
        return self

    def disc(self, x: float, y: float, radius: float, *, cut: bool = False) -> Self:
        """Fills a disc (cut=True takes it out again)."""
        box = [(x - radius) * _FINE, (y - radius) * _FINE, (x + radius) * _FINE, (y + radius) * _FINE]
        self._draw.ellipse(box, fill=0 if cut else 255)
        return self

    def line(self, points: Points, width: float) -> Self:
        """Draws a bent line of the given width in pixels."""
        fine = [(x * _FINE, y * _FINE) for x, y in points]
        self._draw.line(fine, fill=255, width=max(1, round(width * _FINE)), joint="curve")
        return self

    def letter(self, letter: str, font: ImageFont.FreeTypeFont, x: float, y: float) -> Self:
        """Writes a letter with its middle at (x, y); fonts are loaded with `fine_size`."""
        right, up = to_middle(letter, font)
        self._draw.text((x * _FINE - right, y * _FINE + up), letter, fill=255, font=font, anchor="ls")
        return self

    def turned(self, degrees: float, x: float = SIDE / 2, y: float = SIDE / 2) -> Self:
        """Turns what was drawn so far about (x, y), counter-clockwise."""
        self._image = self._image.rotate(degrees, resample=Image.Resampling.BILINEAR, center=(x * _FINE, y * _FINE))
        self._draw = ImageDraw.Draw(self._image)
        return self

    def soft(self) -> np.ndarray:
        """The mask as float (32, 32)."""
        return np.asarray(self._image.reduce(_FINE), dtype=np.float64) / 255


def fine_size(pixels: float) -> int:
    """The font size to load so that characters come out `pixels` high."""
    return round(pixels * _FINE)


def ellipse_points(x: float, y: float, a: float, b: float, turn: float, wobble: Iterable[float] = ()) -> Points:
    """An ellipse with half axes a, b, turned by `turn` radians; wobble[k] bends its radius by cos((k + 2) t)."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    swell = 1 + sum((w * np.cos((k + 2) * t + 7 * w) for k, w in enumerate(wobble)), start=np.zeros_like(t))
    u, v = a * swell * np.cos(t), b * swell * np.sin(t)
    return list(zip(x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn), strict=True))


def place(points: Points, x: float, y: float, scale: float, turn: float) -> Points:
    """Points about the origin, scaled, turned by `turn` radians (clockwise on screen), moved to (x, y)."""
    cos, sin = np.cos(turn), np.sin(turn)
    return [(x + scale * (cos * u - sin * v), y + scale * (sin * u + cos * v)) for u, v in points]


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x, y, each (32, 32)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    return x, y


def clouds(rng: np.random.Generator, cells: Sequence[int] = (2, 4, 8)) -> np.ndarray:
    """A smooth random field (32, 32), mean about 0, spread about 1: sums of coarse noise, finer parts weaker."""
    field = np.zeros((SIDE, SIDE))
    for number, count in enumerate(cells):
        coarse = rng.normal(0, 1, (count + 1, count + 1)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        field += np.asarray(smooth, dtype=np.float64) * 0.7**number
    return field


def colour(rng: np.random.Generator, low: float = 30, high: float = 225) -> np.ndarray:
    """A colour (3,)."""
    return rng.uniform(low, high, 3)


def against(rng: np.random.Generator, other: np.ndarray, contrast: float) -> np.ndarray:
    """A colour (3,) that stands out from `other` by 1 to 1.5 times `contrast` levels on the mean of the channels.

    Lighter or darker with equal chance where both fit into 0..255, and tinted by a quarter of the contrast.
    """
    step, sign = contrast * rng.uniform(1, 1.5), rng.choice((-1.0, 1.0))
    if not 0 <= other.mean() + sign * step <= 255:
        sign = -sign
    tint = rng.normal(0, 0.25 * contrast, 3)
    return np.clip(other + sign * step + tint - tint.mean(), 0, 255)


def litter(image: np.ndarray, rng: np.random.Generator, most: float, ink: np.ndarray) -> np.ndarray:
    """Up to `most` specks and short strokes about the colour `ink`: what an eye must look past."""
    for _ in range(rng.integers(0, round(most) + 1)):
        x, y = rng.uniform(1, SIDE - 1, 2)
        way, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 7)
        stroke = [(x, y), (x + length * np.cos(way), y + length * np.sin(way))]
        mask = Mask().line(stroke, rng.uniform(0.8, 1.8)).disc(x, y, rng.uniform(0.4, 1.2)).soft()
        image = paint(image, mask * rng.uniform(0.4, 1), np.clip(ink + rng.normal(0, 25, 3), 0, 255))
    return image


def ground(rng: np.random.Generator, base: np.ndarray, strength: float) -> np.ndarray:
    """A cloudy ground around the colour `base`; strength: spread of the clouds in levels."""
    shade = clouds(rng)[..., None] * strength
    tint = np.stack([clouds(rng, (2, 3)) for _ in range(3)], axis=-1) * strength * 0.4
    return base + shade + tint


def paint(image: np.ndarray, mask: np.ndarray, over: np.ndarray) -> np.ndarray:
    """`over` (a colour or an image) laid on the image where mask (32, 32) in 0..1 says so."""
    share = mask[..., None]
    return share * over + (1 - share) * image


def finish(image: np.ndarray, rng: np.random.Generator, *, light: float = 0.25, noise: float = 8) -> np.ndarray:
    """Slanted light (up to +-light), camera noise (levels), then uint8 (32, 32, 3)."""
    x, y = grid()
    turn, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, light)
    slope = 1 + depth * (np.cos(turn) * (x / SIDE - 0.5) + np.sin(turn) * (y / SIDE - 0.5)) * 2
    image = image * slope[..., None] + rng.normal(0, rng.uniform(0.2, 1) * noise, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
