"""CIFAR-100, binary version: records of coarse label, fine label and 3 x 32 x 32 bytes, channels first.

The version for Python is a pickle, which can run what it likes when it is read; it is not accepted.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from karst_bench.data.builders.archive import members, read_exactly
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

RECORD = 2 + 3 * 32 * 32
FILES = {"train.bin": "train", "test.bin": "test"}


class Cifar100(RawReader):
    """Keys: the record's number in train.bin or test.bin. Label: the fine one, 0..99."""

    archives = (
        Archive(
            "cifar-100-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            also=("cifar-100-binary",),
        ),
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{number of the record: fine label}."""
        return self._labels[split]

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted records as arrays (32, 32, 3)."""
        keys = {split: set(numbers) for split, numbers in wanted.items()}
        for split, number, record in self._records():
            if number in keys.get(split, ()):
                image = np.frombuffer(record, np.uint8, offset=2).reshape(3, 32, 32)
                yield split, number, np.ascontiguousarray(image.transpose(1, 2, 0))

    @cached_property
    def _labels(self) -> dict[str, dict[Key, int]]:
        found: dict[str, dict[Key, int]] = {}
        for split, number, record in self._records():
            found.setdefault(split, {})[number] = record[1]
        return found

    def _records(self) -> Iterator[tuple[str, int, bytes]]:
        path, seen = self.at(0), set()
        for member in members(path):
            split = FILES.get(member.name.rpartition("/")[2])
            if split is None:
                continue
            if member.size % RECORD or not member.size:
                raise UserError(
                    f"{path}: {member.name} has {member.size} bytes, no multiple of the {RECORD} of a record"
                )
            seen.add(split)
            with member.open() as file:
                for number in range(member.size // RECORD):
                    record = read_exactly(file, RECORD, path)
                    if record[1] > 99:
                        raise UserError(f"{path}: record {number} of {member.name} has label {record[1]}, above 99")
                    yield split, number, record
        if len(seen) < 2:
            raise UserError(
                f"{path}: holds no train.bin and test.bin; the binary version is needed, {self.archives[0].url} (the one"
                " for Python is a pickle and is not read)"
            )
