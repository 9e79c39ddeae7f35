"""Resampling and blurring as OpenCV does them, to which two of the sets owe their published pixels."""

import io
import math

import numpy as np
import scipy.ndimage
from PIL import Image


def resize_linear(image: np.ndarray, factor: float) -> np.ndarray:
    """uint8 (h, w, c) scaled by `factor`: bilinear between pixel centres, no smoothing, edges repeated.

    Output pixel i lies at (i + 1/2) / factor - 1/2; the size is round(factor * h), as cv2.resize(fx=fy=factor) has it.
    """
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    rows, columns = _taps(height, image.shape[0], factor), _taps(width, image.shape[1], factor)
    lower, upper, weight = rows
    tall = image[lower] * (1 - weight)[:, None, None] + image[upper] * weight[:, None, None]
    left, right, share = columns
    wide = tall[:, left] * (1 - share)[None, :, None] + tall[:, right] * share[None, :, None]
    return to_uint8(wide)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest of 0..255."""
    out: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return out


def _taps(count: int, size: int, factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.clip((np.arange(count) + 0.5) / factor - 0.5, 0, size - 1)
    lower = np.floor(at).astype(np.int64)
    return lower, np.minimum(lower + 1, size - 1), (at - lower).astype(np.float32)


def shrink(image: Image.Image, pixels: int) -> Image.Image:
    """The picture with at most `pixels` pixels, its proportions kept; smaller ones unchanged."""
    if image.width * image.height <= pixels:
        return image
    factor = math.sqrt(pixels / (image.width * image.height))
    return Image.fromarray(resize_linear(np.asarray(image), factor))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 (h, w, c) under a Gaussian of three sigmas to each side, mirrored at the edge without repeating it."""
    radius = (round(sigma * 6 + 1) | 1) // 2
    sigmas = (sigma, sigma, 0)
    out = scipy.ndimage.gaussian_filter(image.astype(np.float32), sigmas, mode="mirror", radius=(radius, radius, 0))
    return to_uint8(out)


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """What a JPEG of that quality (4:2:0) gives back."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling="4:2:0")
    out.seek(0)
    with Image.open(out) as back:
        return back.convert("RGB")
