"""Reading archives that are not trusted: one member at a time, nothing unpacked, nothing outside, nothing too large.

A tar, a zip and an unpacked folder look the same: members by relative name. Links, devices and names that leave the
archive refuse the whole of it.
"""

import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from karst_bench.download import is_web_page
from karst_bench.errors import UserError

MEMBER = 64 << 20  # bytes of one picture or list: more than any of these sets has
RATIO = 1200  # zip and gzip of real data stay below; 1032 is what deflate can reach on zeros
SLACK = 256 << 20  # what any archive may unpack to, however small it is
BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError,
)  # fmt: skip
_OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|[\x00-\x1f]")


@dataclass(frozen=True)
class Member:
    """One file of an archive. size: as declared; opener: opens it, once, before the next member is asked for."""

    name: str
    size: int
    opener: Callable[[], IO[bytes]]
    archive: Path

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes as a stream; what a damaged archive raises meanwhile is a UserError that names it."""
        with refused(self.archive), self.opener() as file:
            yield file

    def read(self, limit: int = MEMBER) -> bytes:
        """All bytes. Raises: UserError if there are more than `limit`, or fewer than declared."""
        if self.size > limit:
            raise UserError(f"{self.archive}: {self.name} claims {self.size} bytes, more than the {limit} it may have")
        with self.open() as file:
            data = file.read(limit + 1)
        if len(data) != self.size:
            raise UserError(
                f"{self.archive}: {self.name} is cut short ({len(data)} of {self.size} bytes); fetch it again"
            )
        return data


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Whatever a damaged archive raises, as one UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{path}: damaged or cut short ({type(error).__name__}: {error}); {_what(path)}") from error


def _what(path: Path) -> str:
    if is_web_page(path):
        return "it is a web page, not the archive: the address answered with a notice; fetch the file by hand"
    return "fetch it again"


def members(path: Path) -> Iterator[Member]:
    """The files of a tar (plain, gz, xz, bz2), a zip or a folder, in the order they lie there.

    Raises: UserError naming the archive for links, devices, names that leave it, a damaged or a bomb-like archive.
    """
    if path.is_dir():
        yield from _of_folder(path)
        return
    if not path.is_file():
        raise UserError(f"{path}: no such archive or folder")
    with refused(path):
        yield from _of_zip(path) if zipfile.is_zipfile(path) else _of_tar(path)


def _safe(path: Path, name: str) -> str:
    """The name without a leading ./ ; a UserError if it could leave the archive."""
    if _OUTSIDE.search(name):
        raise UserError(f"{path}: holds a member named {name[:120]!r}, which leaves the folder; not a file to trust")
    return name.removeprefix("./")


def _of_folder(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_symlink():
            raise UserError(f"{path}: {name} is a link; give a folder with the files themselves")
        if file.is_file():
            yield Member(name, file.stat().st_size, lambda file=file: file.open("rb"), path)  # type: ignore[misc]


def _of_zip(path: Path) -> Iterator[Member]:
    bound = path.stat().st_size * RATIO + SLACK
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > bound:
            raise UserError(f"{path}: claims to unpack to more than {bound} bytes; not a file to trust")
        for info in archive.infolist():
            name = _safe(path, info.filename)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(f"{path}: {name} is a link; not a file to trust")
            if not info.is_dir():
                yield Member(name, info.file_size, lambda info=info: archive.open(info), path)  # type: ignore[misc]


def nested_tar(path: Path, suffix: str) -> Iterator[Member]:
    """The members of a tar that lies in the archive `path`, its name ending in `suffix`."""
    for member in members(path):
        if member.name.endswith(suffix):
            with member.open() as file:
                yield from _of_tar(path, file)
            return
    raise UserError(f"{path}: holds no {suffix}; is it the archive that its name says?")


def _of_tar(path: Path, file: IO[bytes] | None = None) -> Iterator[Member]:
    bound = path.stat().st_size * RATIO + SLACK
    total = 0
    with tarfile.open(path, "r|*", fileobj=file) as archive:  # read once, from front to back
        for info in archive:
            name = _safe(path, info.name)
            total += info.size
            if total > bound:
                raise UserError(f"{path}: unpacks to more than {bound} bytes; not a file to trust")
            if info.isdir():
                continue
            if not info.isreg():
                raise UserError(f"{path}: {name} is a link or a device; not a file to trust")
            yield Member(name, info.size, lambda info=info: archive.extractfile(info) or io.BytesIO(), path)  # type: ignore[misc]
            # a stream forgets nothing: without this a set of 100,000 pictures would keep as many headers
            cast(Any, archive).members.clear()


def open_member(path: Path, name: str) -> bytes:
    """The bytes of one member, found by the end of its name. Raises: UserError if there is none."""
    for member in members(path):
        if member.name == name or member.name.endswith("/" + name):
            return member.read()
    raise UserError(f"{path}: holds no {name}; is it the archive that its name says?")


@contextmanager
def unzipped(path: Path) -> Iterator[IO[bytes]]:
    """A file read through gzip where it is compressed, as it is where not; damage is a UserError."""
    with refused(path), path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=raw) as file:
                yield cast(IO[bytes], file)
        else:
            yield raw


def unpack_gzip(path: Path, target: Path) -> Path:
    """The unpacked file at `target`, whole or not at all. Raises: UserError for damage, or more than RATIO allows."""
    bound = path.stat().st_size * RATIO + SLACK
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, total = target.with_name(target.name + ".partial"), 0
    with unzipped(path) as packed, partial.open("wb") as out:
        while block := packed.read(1 << 24):
            total += len(block)
            if total > bound:
                raise UserError(f"{path}: unpacks to more than {bound} bytes; not a file to trust")
            out.write(block)
    partial.replace(target)
    return target


def at_end(file: IO[bytes], path: Path) -> None:
    """Read past the last element, so that a compressed file compares its checksum. Raises: UserError if more follows."""
    if file.read(1):
        raise UserError(f"{path}: longer than its own header says; fetch it again")


def read_exactly(file: IO[bytes], count: int, path: Path) -> bytes:
    """`count` bytes. Raises: UserError naming the file if there are fewer."""
    parts, missing = [], count
    while missing and (part := file.read(min(missing, 1 << 24))):
        parts.append(part)
        missing -= len(part)
    if missing:
        raise UserError(f"{path}: cut short, {missing} of {count} bytes are missing; fetch it again")
    return b"".join(parts)
