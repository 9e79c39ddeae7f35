"""EuroSAT RGB: a zip of 2750/<Class>/<Class>_<n>.jpg."""

from collections.abc import Callable, Iterator

from karst_bench.data.builders.archive import members
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, position
from karst_bench.data.sources.vtab_splits import Key


class ClassFolders(RawReader):
    """Keys: <class>_<file>. Label: the class, alphabetical. Every picture belongs to the one split, train."""

    def class_of(self, folder: str, file: str) -> str:
        """The class of a picture, from the folder it lies in and its name."""
        return folder

    def labels(self, split: str) -> dict[Key, int]:
        """{<class>_<file>: class}."""
        found = [(self.class_of(folder, name), name) for folder, name, _ in self._files()]
        order = position({label for label, _ in found})
        return {f"{label}_{name}": order[label] for label, name in found}

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        keys = set(wanted.get("train", ()))
        for folder, name, read in self._files():
            key = f"{self.class_of(folder, name)}_{name}"
            if key in keys:
                yield "train", key, read()

    def _files(self) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
        for member in members(self.at(0)):
            folder, _, name = member.name.rpartition("/")
            if name.lower().endswith(".jpg") and folder and not name.startswith("._"):
                yield folder.rpartition("/")[2], name, member.read


class Eurosat(ClassFolders):
    """Keys: <Class>_<Class>_<n>.jpg. Label: land use, alphabetical."""

    archives = (
        Archive(
            "EuroSAT.zip",
            "http://madm.dfki.de/files/sentinel/EuroSAT.zip",
            94280567,
            "8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
            also=("2750", "EuroSAT_RGB.zip", "EuroSAT_RGB"),
        ),
    )

    def class_of(self, folder: str, file: str) -> str:
        """The name up to its first underscore."""
        return file.partition("_")[0]
