"""Odd and bad image files: converted as the field's readers do, or one clear error."""

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from karst_bench.data.decode import (
    BadImageError,
    decode_bytes,
    encoding_of,
    is_picture,
    is_rotated,
    jpeg_quality,
    read_image,
)

GREY = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (12, 1))
COLOUR = np.stack([GREY, GREY[:, ::-1], np.full_like(GREY, 90)], axis=2)


def as_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB").convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("rgb.jpg", lambda: Image.fromarray(COLOUR)),
        ("grey.jpg", lambda: Image.fromarray(GREY)),
        ("cmyk.jpg", lambda: Image.fromarray(COLOUR).convert("CMYK")),
        ("rgb.png", lambda: Image.fromarray(COLOUR)),
        ("rgba.png", lambda: Image.fromarray(COLOUR).convert("RGBA")),
        ("la.png", lambda: Image.fromarray(GREY).convert("LA")),
        ("palette.png", lambda: Image.fromarray(COLOUR).quantize(16)),
        ("bits.png", lambda: Image.fromarray(GREY).convert("1")),
        ("rgb.gif", lambda: Image.fromarray(COLOUR)),
        ("rgb.bmp", lambda: Image.fromarray(COLOUR)),
        ("rgb.webp", lambda: Image.fromarray(COLOUR)),
        ("rgb.tif", lambda: Image.fromarray(COLOUR)),
        ("png_called.jpg", None),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str, make: Callable[[], Image.Image] | None) -> None:
    path = tmp_path / name
    if make is None:
        Image.fromarray(COLOUR).save(path, "PNG")
    else:
        make().save(path)
    pixels = read_image(path)
    assert pixels.shape == (3, 12, 16)
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - as_pillow(path)).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png")[0].numpy(), GREY)


KINDS = {"grey": (0, 1), "rgb": (2, 3), "grey_alpha": (4, 2), "rgba": (6, 4)}  # PNG colour type, channels


def png(levels: np.ndarray, colour: int, depth: int) -> bytes:
    """A PNG file by hand: levels (h, w, c), `depth` bits each (PNG specification, third edition)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = levels.reshape(len(levels), -1)
    if depth < 8:
        bits = (rows[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("dark", [False, True], ids=["full", "dark"])
@pytest.mark.parametrize(("kind", "depth"), [(kind, depth) for kind in KINDS for depth in (1, 2, 4, 8, 16)
                                             if depth >= 8 or kind == "grey"])  # fmt: skip
def test_every_png_is_read_by_one_rule(tmp_path: Path, kind: str, depth: int, dark: bool) -> None:
    """255 v / (2^depth - 1), whatever levels the picture happens to hold: a dark one stays dark."""
    colour, channels = KINDS[kind]
    most = (1 << depth) - 1
    levels = np.random.default_rng(depth).integers(0, (min(200, most) if dark else most) + 1, (5, 7, channels))
    if channels in (2, 4):
        levels[..., -1] = most
    (tmp_path / "a.jpg").write_bytes(png(levels, colour, depth))
    seen = levels[..., :3] if channels > 2 else levels[..., :1].repeat(3, axis=2)
    pixels = read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy().astype(int)
    assert np.abs(pixels - np.rint(seen * 255 / most)).max() == 0


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_every_deep_tiff_is_read_by_one_rule(tmp_path: Path, mode: str) -> None:
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    for scale in (1.0, 0.003):
        share = scale * np.linspace(0, 1, 12).reshape(3, 4)
        levels = (share if mode == "F" else np.rint(share * 65535)).astype(kind)
        Image.fromarray(levels).save(tmp_path / "a.tif")
        found = read_image(tmp_path / "a.tif")[0].numpy().astype(int)
        assert np.abs(found - share * 255).max() <= 0.51
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImageError, match="no numbers"):
        read_image(tmp_path / "a.tif")


def test_a_set_may_say_which_level_is_white(tmp_path: Path) -> None:
    twelve_bits = np.array([[0, 2048, 4095, 5000]])
    for kind in ("grey", "rgb"):
        colour, channels = KINDS[kind]
        (tmp_path / "a.png").write_bytes(png(twelve_bits[..., None].repeat(channels, axis=2), colour, 16))
        assert read_image(tmp_path / "a.png", 4095)[1].tolist() == [[0, 128, 255, 255]]
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png", 4095)[0].numpy(), GREY)  # eight bits are as they are


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_what_a_file_is_its_bytes_say(tmp_path: Path, form: str) -> None:
    path = tmp_path / "picture.txt"
    Image.fromarray(COLOUR).save(path, form)
    assert is_picture(path) and encoding_of([path]) == {"JPEG": "jpeg75", "PNG": "png"}.get(form, "native")
    path.write_text("a.jpg 0\n")
    assert not is_picture(path) and not is_picture(tmp_path / "none")


@pytest.mark.parametrize(("brand", "picture"), [(b"avif", True), (b"heic", True), (b"qt  ", False), (b"mp42", False)])
def test_a_film_is_no_picture(tmp_path: Path, brand: bytes, picture: bool) -> None:
    """Telephones lay a film of a second beside a photograph; both are of one family of files."""
    (tmp_path / "IMG_1").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0")
    assert is_picture(tmp_path / "IMG_1") == picture


def test_exif_rotation_is_seen_and_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(COLOUR).save(tmp_path / "plain.jpg")
    assert read_image(tmp_path / "turned.jpg").shape == (3, 12, 16)
    assert is_rotated(tmp_path / "turned.jpg") and not is_rotated(tmp_path / "plain.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_every_truncation_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).resize((160, 120)).save(path)
    data = path.read_bytes()
    for kept in range(0, len(data) - 20, max(1, len(data) // 40)):
        path.write_bytes(data[:kept])
        with pytest.raises(BadImageError, match=f"a.{suffix}"):
            read_image(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_bent_pngs_are_errors_or_pictures(tmp_path: Path, mode: str) -> None:
    """torchvision's reader of PNG ends the process on some of these."""
    plain = Image.new("I;16", (9, 7), 40_000) if mode == "I;16" else Image.radial_gradient("L").resize((9, 7)).convert(mode)
    plain.save(tmp_path / "plain.png")
    data, rng = (tmp_path / "plain.png").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(200):
        bent = bytearray(data)
        for _ in range(rng.choice([1, 2, 5, 20])):
            bent[rng.randrange(8, len(bent))] = rng.randrange(256)
        try:
            assert decode_bytes(bytes(bent), "bent.png").shape[0] == 3
        except BadImageError as error:
            refused += 1
            assert "bent.png" in str(error)
    assert refused > 100


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    for name, said in (("text.jpg", "not a readable image"), ("folder.jpg", "cannot be read"), ("no.jpg", "missing")):
        with pytest.raises(BadImageError, match=said):
            read_image(tmp_path / name)


def test_a_forged_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.bmp"
    Image.fromarray(COLOUR).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = (9000).to_bytes(4, "little") + (8000).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(BadImageError, match="9000 x 8000"):
        read_image(path)


@pytest.mark.parametrize("quality", [10, 50, 75, 92, 100])
def test_jpeg_quality_is_read_from_the_tables(tmp_path: Path, quality: int) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(tmp_path / "a.jpg") == quality
    assert encoding_of([tmp_path / "a.jpg"] * 2) == f"jpeg{quality}"


def test_mixed_encodings_are_native(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg")
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    assert jpeg_quality(tmp_path / "a.png") is None
    assert encoding_of([tmp_path / "a.jpg", tmp_path / "a.png"]) == "native"
