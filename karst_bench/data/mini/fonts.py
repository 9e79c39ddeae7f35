"""The font faces that come with matplotlib, loaded for drawing; letters lie where they would with any text layout library."""

from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

LATIN = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10",
    "cmb10", "cmtt10",
)  # fmt: skip
GREEK = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip


@lru_cache(maxsize=256)
def face(name: str, size: int) -> ImageFont.FreeTypeFont:
    """The face `name` at `size` (see drawing.fine_size)."""
    return _loaded(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def to_middle(letter: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Pixels from where a letter starts on its baseline, right and up, to the middle of its width and height.

    Pillow's own anchor "mm" goes by the width that libraqm gives, where the system has libfribidi, else by one that is
    rounded: another pixel for one letter in three, and so another data set. This is libraqm's, to 1/64 of a pixel.
    """
    units, em = _width(str(font.path), letter)
    ascent, descent = font.getmetrics()
    return _pixels(round(units * font.size * 64 / em) // 2), _pixels((ascent - descent) * 64 // 2)


@lru_cache(maxsize=1024)
def _width(path: str, letter: str) -> tuple[float, int]:
    """A letter's width and the size of the em, both in the font's units: at that size a pixel is one of them."""
    em = FT2Font(path).units_per_EM
    return _loaded(path, em).getlength(letter), em


def _loaded(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _pixels(in_64ths: int) -> int:
    return (in_64ths + 32) // 64
