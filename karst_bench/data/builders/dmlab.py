"""DMLab frames: a tar of dmlab-<split>.tfrecord files, each record an example of image, filename and label."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from karst_bench.data.builders.archive import members
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted
from karst_bench.data.builders.tfrecord import example, records
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

_SHARD = re.compile(r"(?:^|/)dmlab-(train|validation|test)\.tfrecord[^/]*$")


class Dmlab(RawReader):
    """Keys: the filename in the record. Label: as stored, 0..5 = {close, far, very far} x {positive, negative reward}."""

    archives = (
        Archive(
            "dmlab.tar.gz",
            "https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz",
            3017022789,
            "638b18fa69a5d61bbc310cd0b87ac603a39f41de0fdb07b6e77de274a24480a4",
            also=("dmlab",),
        ),
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{filename: label}; every record's checksum is compared here."""
        if split not in self._labels:
            raise UserError(f"{self.at(0)}: holds no dmlab-{split}.tfrecord*; is it the archive that its name says?")
        return self._labels[split]

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted frames as they are stored."""
        keys = {split: set(names) for split, names in wanted.items()}
        for split, data in self._records(set(keys), check=False):
            name, _, image = _facts(data, self.at(0))
            if name in keys[split]:
                yield split, name, image

    @cached_property
    def _labels(self) -> dict[str, dict[Key, int]]:
        found: dict[str, dict[Key, int]] = {}
        for split, data in self._records({"train", "validation", "test"}, check=True):
            name, label, _ = _facts(data, self.at(0))
            if name in found.setdefault(split, {}):
                raise UserError(f"{self.at(0)}: {name} occurs twice in {split}")
            found[split][name] = label
        return found

    def _records(self, splits: set[str], *, check: bool) -> Iterator[tuple[str, bytes]]:
        for member in members(self.at(0)):
            shard = _SHARD.search(member.name)
            if shard and shard[1] in splits:
                with member.open() as file:
                    for data in records(file, self.at(0), check=check):
                        yield shard[1], data


def _facts(data: bytes, path: Path) -> tuple[str, int, bytes]:
    try:
        features = example(data)
        (name,), (label,), (image,) = (features[key] for key in ("filename", "label", "image"))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: a record is no example of image, filename and label ({error}); fetch it again"
        ) from error
    if not isinstance(name, bytes) or not isinstance(image, bytes) or not isinstance(label, int) or not 0 <= label < 6:
        raise UserError(f"{path}: a record's image, filename or label (0..5) is of another kind; fetch it again")
    return name.decode("utf-8", "replace"), label, image
