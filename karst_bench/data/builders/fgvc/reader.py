"""What a reader of a fine-grained set offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from karst_bench.data.builders.archive import members
from karst_bench.data.builders.raw import Archive, below
from karst_bench.errors import UserError


class FgvcReader(ABC):
    """One set. archives and instructions as for RawReader, the first archive holding the pictures; prefix: the folder
    there in which a picture's path begins."""

    archives: ClassVar[tuple[Archive, ...]]
    instructions: ClassVar[str] = ""
    prefix: ClassVar[str] = ""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def at(self, number: int) -> Path:
        """Where the archive of that number in `archives` is."""
        return self.files[self.archives[number].name]

    @abstractmethod
    def labels(self) -> dict[str, dict[str, int]]:
        """{train | val | test: {path of a picture: its class from 0}}, as the authors cut the set (few have a val)."""

    def path_of(self, name: str) -> str:
        """The path of an archive's member as `labels` and VPT's lists name it; "" for what is no picture."""
        return below(name, self.prefix) if name.lower().endswith((".jpg", ".jpeg")) else ""

    def pictures(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        """(path, stored bytes) of the wanted pictures."""
        for member in members(self.at(0)):
            path = self.path_of(member.name)
            if path in wanted:
                yield path, member.read()


def numbered(classes: set[str]) -> dict[str, int]:
    """{class as it is written: its number from 0}, in the order of their numbers (NABirds leaves gaps)."""
    return {name: number for number, name in enumerate(sorted(classes, key=lambda text: (len(text), text)))}


def table(text: bytes, columns: int, path: Path, name: str) -> dict[str, str]:
    """{first word: the rest} of a list's lines. Raises: UserError for a line of fewer words."""
    found = {}
    for line in text.decode("utf-8", "replace").splitlines():
        words = line.split(None, columns - 1)
        if not words:
            continue
        if len(words) < columns:
            raise UserError(f"{path}: a line of {name} has no {columns} words: {line[:80]!r}")
        found[words[0]] = words[1].strip()
    return found
