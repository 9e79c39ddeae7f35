"""Odd and bad image files: converted as the field's readers do, or one clear error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from karst_bench.data.decode import BadImageError, encoding_of, is_rotated, jpeg_quality, read_image

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
