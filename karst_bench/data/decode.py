"""One image file to pixels: by torchvision's decoder where it can, by Pillow else, or one clear error.

Conversions follow the readers of the field, `Image.open(path).convert("RGB")`: alpha is dropped, grey is repeated, CMYK
is converted, an EXIF rotation is not applied. 16-bit files are scaled to 8 bits (Pillow would clip them to white).
"""

import io
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from karst_bench.errors import UserError

DECODER = f"1/torchvision-{torchvision.__version__}/pillow-{PIL.__version__}"
MAX_PIXELS = 64_000_000  # more than any image of these sets; keeps a forged header from filling the memory
ORIENTATION = 0x0112
# ITU T.81 Annex K, table K.1 (luminance), in zigzag order as a JPEG file stores it
_LUMINANCE = (
    "16 11 12 14 12 10 16 14 13 14 18 17 16 19 24 40 26 24 22 22 24 49 35 37 29 40 58 51 61 60 57 51 "
    "56 55 64 72 92 78 64 68 87 69 55 56 80 109 81 87 95 98 103 104 103 62 77 113 121 112 100 120 92 101 103 99"
)


# what Pillow's plug-ins raise on damaged files; Warning, where warnings are made errors
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, ArithmeticError, LookupError, TypeError, AttributeError,
    MemoryError, Warning,
)  # fmt: skip


class BadImageError(UserError):
    """An image that is missing, empty, truncated or not an image."""


def read_image(path: Path) -> torch.Tensor:
    """The pixels of one file: uint8 (3, H, W), RGB.

    Raises: BadImageError naming the file and what is wrong with it.
    """
    return decode_bytes(read_bytes(path), path)


def decode_bytes(data: bytes, origin: Path | str) -> torch.Tensor:
    """The pixels of a file's bytes: uint8 (3, H, W), RGB. Raises: BadImageError naming `origin`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(origin, image)
            if image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L"):
                pixels = _by_torchvision(data)
                if pixels is not None:
                    return pixels
            return _by_pillow(image)
    except BadImageError:
        raise
    except _DECODER_ERRORS as error:
        raise BadImageError(f"{origin}: not a readable image ({error}); the file is damaged or cut short") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"{origin}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises: BadImageError if it is missing, empty or not readable."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadImageError(f"{path}: the file is missing") from error
    except (OSError, ValueError) as error:
        raise BadImageError(f"{path}: cannot be read ({error})") from error
    if not data:
        raise BadImageError(f"{path}: the file is empty (0 bytes)")
    return data


def _check_size(origin: Path | str, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{origin}: {width} x {height} pixels; more than {MAX_PIXELS} cannot be meant")


def _by_torchvision(data: bytes) -> torch.Tensor | None:
    """The fast path; None where this decoder gives up, Pillow then says why."""
    try:
        pixels = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels if pixels.dtype == torch.uint8 else None


def _by_pillow(image: Image.Image) -> torch.Tensor:
    if image.mode.startswith("I"):
        array = np.asarray(image).astype(np.int64)
        grey = np.clip(array >> 8 if array.max(initial=0) > 255 else array, 0, 255).astype(np.uint8)
        return torch.from_numpy(np.repeat(grey[None], 3, axis=0))
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")
    array = np.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def jpeg_quality(path: Path | BinaryIO) -> int | None:
    """The quality (1..100) that libjpeg's standard tables were scaled with; None for other formats and own tables."""
    try:
        with Image.open(path) as image:
            tables = getattr(image, "quantization", None)
    except (OSError, SyntaxError, ValueError):
        return None
    if not tables or 0 not in tables:
        return None
    found = sorted(tables[0])
    base = [int(word) for word in _LUMINANCE.split()]
    for quality in range(100, 0, -1):
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        # compared sorted: Pillow versions differ in whether they hand the table out in zigzag order
        if found == sorted(min(255, max(1, (value * scale + 50) // 100)) for value in base):
            return quality
    return None


def encoding_of(paths: list[Path]) -> str:
    """How a few images of a set are stored: png | jpeg<quality> | native (mixed, or anything else)."""
    found = set()
    for path in paths:
        quality = jpeg_quality(path)
        found.add(f"jpeg{quality}" if quality else "png" if path.suffix.lower() == ".png" else "native")
    return found.pop() if len(found) == 1 else "native"


def is_rotated(path: Path) -> bool:
    """Whether EXIF asks for a rotation, which this project (like its peers) does not apply."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(ORIENTATION, 1) not in (0, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return False
