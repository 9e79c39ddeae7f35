"""Caltech-101: a zip that holds a tar of 102 class folders (BACKGROUND_Google among them)."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from karst_bench.data.builders.archive import Member, members, nested_tar
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, below, position
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

FOLDER = "101_ObjectCategories"
TRAINING, SEED = 30, 1234


class Caltech101(RawReader):
    """Keys: <folder>/<file>, the folder's capitals kept. Label: the folder in lower case, alphabetical.

    tensorflow-datasets draws 30 training pictures of a class with numpy's seed 1234 from the folder *as the file system
    lists it*, so the published split is one machine's. Here the listing is sorted: the same rule, another split. A class
    of less than 31 pictures trains on half of them.
    """

    archives = (
        Archive(
            "caltech-101.zip",
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",
            137414764,
            "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
            also=(f"{FOLDER}.tar.gz", FOLDER, "caltech-101"),
        ),
    )
    own_split = "caltech101: drawn from sorted listings; the published split is that of one machine's file system"

    def labels(self, split: str) -> dict[Key, int]:
        """{<folder>/<file>: class} of the 30 drawn pictures of a class (train) or of the others (test)."""
        order = position([folder.lower() for folder in self._listing])
        random = np.random.RandomState(SEED)
        found: dict[Key, int] = {}
        for folder, files in sorted(self._listing.items()):
            listed = sorted(files)
            count = TRAINING if len(listed) > TRAINING else len(listed) // 2
            drawn = set(random.choice(listed, count, replace=False))
            label = order[folder.lower()]
            found |= {f"{folder}/{name}": label for name in listed if (name in drawn) == (split == "train")}
        return found

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        names = {str(key): (split, key) for split, keys in wanted.items() for key in keys}
        for member in self._members():
            found = names.get(below(member.name, FOLDER + "/") or member.name)
            if found is not None:
                yield *found, member.read()

    @cached_property
    def _listing(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for member in self._members():
            folder, _, name = (below(member.name, FOLDER + "/") or member.name).rpartition("/")
            if name.endswith(".jpg") and folder and "/" not in folder and not name.startswith("._"):
                found.setdefault(folder, []).append(name)
        if not found:
            raise UserError(
                f"{self.at(0)}: holds no {FOLDER}/<class>/<file>.jpg; is it the archive that its name says?"
            )
        return found

    def _members(self) -> Iterator[Member]:
        path = self.at(0)
        if path.suffix == ".zip" or (path.is_dir() and (path / f"{FOLDER}.tar.gz").is_file()):
            return nested_tar(path, f"{FOLDER}.tar.gz")
        return members(path)
