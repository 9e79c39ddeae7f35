"""One image file to pixels: JPEG by torchvision's decoder, others by Pillow, or one clear error.

Conversions follow the readers of the field, `Image.open(path).convert("RGB")`: alpha is dropped, grey is repeated, CMYK
is converted, an EXIF rotation is not applied. What has more than 8 bits a channel is scaled by one rule for a whole set, never
by what a picture happens to hold: `white` is the level that becomes 255, by default all that the type can say (65535 of
16 bits and of integers, 1.0 of floats). Pillow would clip such files to white. What a file is, its bytes say, not its name.
Of Pillow's formats those are read that hold pixels: EPS would be handed to Ghostscript, which is another program.
"""

import contextlib
import functools
import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, decode_png

from karst_bench.errors import UserError

DECODER = f"2/torchvision-{torchvision.__version__}/pillow-{PIL.__version__}"
MAX_PIXELS = 64_000_000  # more than any image of these sets; keeps a forged header from filling the memory
ORIENTATION = 0x0112
BITS_PER_SAMPLE = 258  # of TIFF
WHITE_16, WHITE_FLOAT = 65535.0, 1.0
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")  # of what is to be read
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA", "PCX")
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ROWS_AT_ONCE = 2**22  # pixels of a deep picture that are scaled in one go, each as 24 bytes of numbers
# How files of pictures begin; RIFF and ftyp files say what they are a few bytes later.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xffO\xffQ")
_STILLS = tuple(b"ftyp" + brand for brand in (b"avif", b"heic", b"heix", b"mif1"))  # of a family that films are of too
_NETPBM = tuple(f"P{kind}".encode() for kind in range(1, 7))
# ITU T.81 Annex K, table K.1 (luminance), in zigzag order as a JPEG file stores it
_LUMINANCE = (
    "16 11 12 14 12 10 16 14 13 14 18 17 16 19 24 40 26 24 22 22 24 49 35 37 29 40 58 51 61 60 57 51 "
    "56 55 64 72 92 78 64 68 87 69 55 56 80 109 81 87 95 98 103 104 103 62 77 113 121 112 100 120 92 101 103 99"
)


# what Pillow's plug-ins raise on damaged files; Warning, where warnings are made errors
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, ArithmeticError, LookupError, TypeError, AttributeError,
    MemoryError, Warning, Image.DecompressionBombError,
)  # fmt: skip


class BadImageError(UserError):
    """An image that is missing, empty, truncated or not an image."""


def read_image(path: Path, white: float | None = None) -> torch.Tensor:
    """The pixels of one file: uint8 (3, H, W), RGB. white: the level of deep pictures that becomes 255.

    Raises: BadImageError naming the file and what is wrong with it.
    """
    return decode_bytes(read_bytes(path), path, white)


def decode_bytes(data: bytes, origin: Path | str, white: float | None = None) -> torch.Tensor:
    """The pixels of a file's bytes: uint8 (3, H, W), RGB; white as for `read_image`. Raises: BadImageError naming `origin`."""
    try:
        with opened_image(io.BytesIO(data)) as image:
            _check_size(origin, image)
            if is_deep(image, data):
                return _deep(image, data, white, origin)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                pixels = _jpeg_by_torchvision(data)
                if pixels is not None:
                    return pixels
            return _by_pillow(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"{origin}: {error}") from error
    except PIL.UnidentifiedImageError as error:
        raise BadImageError(f"{origin}: not a readable image ({_unidentified(data)})") from error
    except _DECODER_ERRORS as error:
        raise BadImageError(f"{origin}: not a readable image ({error}); the file is damaged or cut short") from error


def _unidentified(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in HEIF:
        return "HEIC, as telephones write it, which is not read here; save it as JPEG or PNG"
    return f"it begins as none of {', '.join(_formats())} does, or is cut short there"


def opened_image(file: Path | BinaryIO) -> Image.Image:
    """Pillow's image of a file, of one of FORMATS. Raises: OSError for any other, and whatever damaged files make Pillow raise."""
    return Image.open(file, formats=_formats())


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


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


def _jpeg_by_torchvision(data: bytes) -> torch.Tensor | None:
    """The fast path; None where this decoder gives up, Pillow then says why."""
    try:
        pixels: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether a picture has more than 8 bits a channel."""
    if image.format == "PNG":
        return len(data) > 24 and data[24] == 16
    return image.mode[0] in "IF" or max(_tiff_bits(image), default=8) > 8


def _tiff_bits(image: Image.Image) -> tuple[int, ...]:
    return tuple(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ()))


def _deep(image: Image.Image, data: bytes, white: float | None, origin: Path | str) -> torch.Tensor:
    """round(255 v / white), cut to 0..255."""
    if image.format == "PNG":
        image.load()
        _check_chunks(data)
        try:
            levels = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError as error:
            raise BadImageError(f"{origin}: not a readable image ({error}); the file is damaged or cut short") from error
        return _eight_bits(levels, white or WHITE_16)
    if image.mode[0] not in "IF":
        raise BadImageError(f"{origin}: {'/'.join(map(str, _tiff_bits(image)))} bits in a {image.format} of mode {image.mode}, "
                            "of which only the upper 8 could be read; save it as PNG")  # fmt: skip
    grey = np.asarray(image)
    if not np.isfinite(grey).all():
        raise BadImageError(f"{origin}: holds values that are no numbers (NaN or infinite); mend or leave out this picture")
    levels = torch.from_numpy(grey.astype(grey.dtype.newbyteorder("="))[None])
    return _eight_bits(levels, white or (WHITE_FLOAT if image.mode[0] == "F" else WHITE_16)).expand(3, -1, -1).contiguous()


def _check_chunks(data: bytes) -> None:
    """Raises: ValueError where a PNG's chunks are not whole. torchvision's reader of PNG, which alone reads 16 bits of colour,
    ends the process on such a file; so it sees none that was not read through before."""
    at = 8
    while data[at + 4 : at + 8] != b"IEND":
        (length,) = struct.unpack(">I", data[at : at + 4])
        body, checksum = data[at + 4 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if checksum != struct.pack(">I", zlib.crc32(body)):
            raise ValueError("a chunk does not fit its checksum")
        at += 12 + length


def _eight_bits(levels: torch.Tensor, white: float) -> torch.Tensor:
    parts = levels.split(max(1, ROWS_AT_ONCE // levels.shape[2]), dim=1)
    return torch.cat([(part.double() * (255 / white)).round().clamp(0, 255).to(torch.uint8) for part in parts], dim=1)


def _by_pillow(image: Image.Image) -> torch.Tensor:
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")
    array = np.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def is_picture(path: Path) -> bool:
    """Whether a file begins as pictures do, whatever it is called."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    netpbm = start[:2] in _NETPBM and start[2:3].isspace()
    return start.startswith(_BEGINNINGS) or netpbm or (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:12] in _STILLS


def jpeg_quality(path: Path | BinaryIO) -> int | None:
    """The quality (1..100) that libjpeg's standard tables were scaled with; None for other formats and own tables."""
    try:
        with opened_image(path) as image:
            tables = getattr(image, "quantization", None)
    except _DECODER_ERRORS:
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
        found.add(f"jpeg{quality}" if quality else "png" if _is_png(path) else "native")
    return found.pop() if len(found) == 1 else "native"


def any_deep(paths: list[Path]) -> bool:
    """Whether one of a few pictures has more than 8 bits a channel."""
    for path in paths:
        with contextlib.suppress(BadImageError, *_DECODER_ERRORS):
            data = read_bytes(path)
            with opened_image(io.BytesIO(data)) as image:
                if is_deep(image, data):
                    return True
    return False


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x89PNG"
    except OSError:
        return False


def is_rotated(path: Path) -> bool:
    """Whether EXIF asks for a rotation, which this project (like its peers) does not apply."""
    try:
        with opened_image(path) as image:
            return image.getexif().get(ORIENTATION, 1) not in (0, 1)
    except _DECODER_ERRORS:
        return False
