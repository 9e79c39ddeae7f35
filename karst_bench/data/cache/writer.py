"""Writing a cache entry: beside its place, in one pass, renamed when it is whole."""

import json
import logging
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from karst_bench import files
from karst_bench.data.images import Source, in_order
from karst_bench.data.resize import Resize

PAUSE_S = 10.0  # between two lines of what is decoded, where there is no terminal for a bar
Decoded = tuple[torch.Tensor, float]  # pixels, and their width over their height
log = logging.getLogger(__name__)


class MixedSizesError(Exception):
    """The images of a split that was to be kept at its own size have several."""


def write_entry(entry: Path, source: Source, resize: Resize | None, layout: int) -> None:
    """Decode `source` into the folder `entry`; resize None keeps the images' own size.

    Nothing is left behind on failure. Raises: OSError (a full disk), BadImageError, MixedSizesError.
    """
    with files.folder(entry) as made:
        _fill(made, source, resize, layout)


def _fill(folder: Path, source: Source, resize: Resize | None, layout: int) -> None:
    crcs = np.empty(len(source), dtype=np.uint32)
    aspects = np.empty(len(source), dtype=np.float32)
    console = Console(stderr=True)
    images = in_order(source, range(len(source)), resize)
    shape: tuple[int, ...] | None = None
    # written with write(), not through a map: a full disk is then an error here instead of a signal
    with (folder / "pixels.npy").open("wb") as file:
        name = f"{source.folder} {source.name}"
        bar = console.is_terminal
        shown = track(images, name, len(source), console=console, transient=True) if bar else _told(images, name, len(source))
        for index, (image, aspect) in enumerate(shown):
            pixels = image.numpy()
            if shape is None:
                shape = pixels.shape
                _header(file, (len(source), *shape))
            elif pixels.shape != shape:
                raise MixedSizesError(f"image {index} is {pixels.shape}, the first is {shape}")
            data = pixels.tobytes()
            crcs[index] = zlib.crc32(data)
            aspects[index] = aspect
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / "crc32.npy", crcs)
    np.save(folder / "aspects.npy", aspects)
    meta = {
        "layout": layout,
        "n": len(source),
        "shape": [len(source), *(shape or ())],
        "native": resize is None,
        "crc32": zlib.crc32(crcs.tobytes() + aspects.tobytes()),
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _told(images: Iterable[Decoded], name: str, count: int) -> Iterator[Decoded]:
    """The images as they come, with a line every PAUSE_S seconds of how many there were."""
    last = time.monotonic()
    for number, image in enumerate(images):
        if time.monotonic() - last >= PAUSE_S:
            last = time.monotonic()
            log.info("%s: %d of %d images decoded", name, number, count)
        yield image


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
