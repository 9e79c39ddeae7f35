"""CLEVR: a zip of images/<split>/CLEVR_<split>_NNNNNN.png and scenes/CLEVR_<split>_scenes.json."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from karst_bench.data.builders.archive import members
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, by_member
from karst_bench.data.sources.vtab_labels import rule
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

NAMES = {"train": "train", "validation": "val"}
CHUNK = 1 << 20
SCENE = 16 << 20  # characters: no scene has a thousandth of it


class Clevr(RawReader):
    """Keys: CLEVR_<split>_NNNNNN.png. Label: the objects minus 3, or the step of the closest one's depth."""

    archives = (
        Archive(
            "CLEVR_v1.0.zip",
            "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
            19021600724,
            "5cd61cf1096ed20944df93c9adb31e74d189b8459a94f54ba00090e5c59936d1",
            also=("CLEVR_v1.0",),
        ),
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{file: label by the task's rule}."""
        label, path, name = rule(self.task), self.at(0), f"CLEVR_{NAMES[split]}_scenes.json"
        found: dict[Key, int] = {}
        for member in members(path):
            if member.name.endswith("scenes/" + name):
                with member.open() as file:
                    for scene in _scenes(file, path, name):
                        file_name, depths = _facts(scene, path, name)
                        found[file_name] = label({"objects": {"pixel_coords": depths}})
                return found
        raise UserError(f"{path}: holds no scenes/{name}; is it the archive that its name says?")

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        names = {f"{NAMES[split]}/{key}": (split, key) for split, keys in wanted.items() for key in keys}
        yield from by_member(self.at(0), names, "images/")


def _facts(scene: Any, path: Path, name: str) -> tuple[str, np.ndarray]:
    try:
        coordinates = np.array([thing["pixel_coords"] for thing in scene["objects"]], dtype=np.float32)
        if coordinates.ndim == 2 and coordinates.shape[1] == 3 and 3 <= len(coordinates) <= 10:
            return str(scene["image_filename"]), coordinates
    except (TypeError, KeyError, ValueError):
        pass
    raise UserError(
        f"{path}: a scene of {name} is not 3 to 10 objects with pixel_coords of three numbers: {str(scene)[:120]}"
    )


def _scenes(file: IO[bytes], path: Path, name: str) -> Iterator[Any]:
    """The objects of {"scenes": [...]}, one at a time: the list for training is some hundred megabytes."""
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("replace").decode
    text, at, started = "", 0, False
    while True:
        chunk = decode(file.read(CHUNK))
        text, at = text[at:] + chunk, 0
        if not started:
            opening = text.find('"scenes"')
            at = text.find("[", opening) + 1 if opening >= 0 else 0
            started = opening >= 0 and at > 0
        while started:
            at += len(text[at : at + 64]) - len(text[at : at + 64].lstrip(" \t\r\n,"))
            if text[at : at + 1] == "]":
                return
            try:
                scene, at = decoder.raw_decode(text, at)
            except ValueError:
                break  # cut by the chunk: more is read, or it never ends
            yield scene
        if not chunk or len(text) - at > SCENE:
            raise UserError(f'{path}: {name} is not {{"scenes": [...]}}, or is cut short; fetch the archive again')
