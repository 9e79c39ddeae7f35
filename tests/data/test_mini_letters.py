"""Letters of the embedded suite: the same pixels whatever text layout libraries a system has."""

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, features

from karst_bench.data.mini.drawing import SIDE, Mask
from karst_bench.data.mini.fonts import GREEK, LATIN, face, to_middle

LETTERS = [(name, letter) for name in LATIN for letter in "AGMQ"] + [(name, letter) for name in GREEK for letter in "αΩ"]


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow finds no libraqm with libfribidi here")
def test_a_letter_lies_where_libraqm_puts_it() -> None:
    for number, (name, letter) in enumerate(LETTERS):
        size, x, y = 80 + number % 29, 15 + number % 7 / 3, 17 - number % 5 / 4
        canvas = Image.new("L", (4 * SIDE, 4 * SIDE))
        font = ImageFont.truetype(face(name, size).path, size, layout_engine=ImageFont.Layout.RAQM)
        ImageDraw.Draw(canvas).text((4 * x, 4 * y), letter, fill=255, font=font, anchor="mm")
        ours = Mask().letter(letter, face(name, size), x, y).soft()
        assert (ours == np.asarray(canvas.reduce(4)) / 255).all(), (name, letter)


def test_half_a_letters_width_is_its_fonts() -> None:
    """By fontTools from the tables hmtx and hhea, in pixels."""
    for name, letter in LETTERS:
        font = face(name, 97)
        assert font.layout_engine == ImageFont.Layout.BASIC
        tables = TTFont(font.path)
        width, _ = tables["hmtx"][tables.getBestCmap()[ord(letter)]]
        right, up = to_middle(letter, font)
        assert abs(right - width * 97 / tables["head"].unitsPerEm / 2) <= 0.5 + 1 / 64, (name, letter)
        ascent, descent = font.getmetrics()
        assert abs(up - (ascent - descent) / 2) <= 0.5
