"""What a reader of an original archive offers to the builder."""

import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from karst_bench.data.builders.archive import members
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

Raw = bytes | np.ndarray
Wanted = Mapping[str, Collection[Key]]
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Archive:
    """One file of a set as its authors publish it.

    name: of the file. url: empty where it has to be fetched by hand. size, sha256: where they are known (those of
    tensorflow-datasets' checksums). also: other files or unpacked folders that are accepted in its place.
    """

    name: str
    url: str = ""
    size: int | None = None
    sha256: str | None = None
    also: tuple[str, ...] = ()


class RawReader(ABC):
    """One original set: what examples it has, and their pictures in the order in which the archive holds them.

    archives: what must be at hand; files: where each of them is, by name. task: the option's last part, where one
    archive serves two tasks. scratch: a folder for what has to be unpacked before it can be read. instructions: how to
    come by what has no address. own_split: why its split is not the published one, if it cannot be.
    """

    archives: ClassVar[tuple[Archive, ...]]
    instructions: ClassVar[str] = ""
    own_split: ClassVar[str] = ""

    def __init__(self, files: Mapping[str, Path], task: str, scratch: Path) -> None:
        self.files = files
        self.task = task
        self.scratch = scratch

    def at(self, number: int) -> Path:
        """Where the archive of that number in `archives` is."""
        return self.files[self.archives[number].name]

    @abstractmethod
    def labels(self, split: str) -> dict[Key, int]:
        """{key: label} of all examples of a split (train | validation | test) of the original set."""

    @abstractmethod
    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """(split, key, stored picture) of the wanted keys, each once, in the archive's own order."""

    def decode(self, stored: Raw) -> Image.Image:
        """The picture as tensorflow-datasets hands it on: mode RGB or L."""
        if isinstance(stored, np.ndarray):
            return Image.fromarray(stored)
        with Image.open(io.BytesIO(stored)) as image:
            return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Mode L kept, everything else to RGB, alpha dropped."""
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")
    return image.copy() if image.mode == "L" else image.convert("RGB")


def decode_checked(reader: RawReader, key: Key, stored: Raw) -> Image.Image:
    """reader.decode. Raises: UserError naming the key for a picture that is damaged."""
    try:
        return reader.decode(stored)
    except _BROKEN as error:
        raise UserError(f"{reader.task}: the picture of {key} is damaged ({error}); fetch its archive again") from error


def by_member(
    archive: Path, names: Mapping[str, tuple[str, Key]], prefix: str = ""
) -> Iterator[tuple[str, Key, bytes]]:
    """(split, key, bytes) of the members that `names` = {name below `prefix`: (split, key)} lists, in one pass.

    prefix: a folder in the archive ("images/"); whatever stands before it in a member's name is ignored.
    """
    for member in members(archive):
        found = names.get(below(member.name, prefix))
        if found is not None:
            yield *found, member.read()


def below(name: str, prefix: str) -> str:
    """What follows the last "/prefix" of a member's name; the name itself where there is no prefix to find."""
    if not prefix:
        return name
    _, found, rest = ("/" + name).rpartition("/" + prefix)
    return rest if found else ""


def position(labels: Collection[str]) -> dict[str, int]:
    """{class name: its number} in alphabetical order."""
    return {name: number for number, name in enumerate(sorted(labels))}
