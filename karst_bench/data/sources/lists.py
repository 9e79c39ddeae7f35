"""List files of VTAB-1K folders and few-shot sets, one image a line: `<relative path> <0-based label>`."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from karst_bench.errors import UserError

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)")  # absolute (also on Windows), or upwards
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class ListEntry:
    """One image of a list: line (from 1), path in its one spelling (`plain_path`), label."""

    line: int
    path: str
    label: int


@dataclass(frozen=True)
class Problem:
    """One bad line. kind: text (the whole file) | format | label | range | path | contradiction."""

    line: int
    kind: str
    text: str


@dataclass(frozen=True)
class Scan:
    """A list as found: its good rows, its problems, whether the last line ends with a newline, the span of its labels."""

    file: Path
    rows: tuple[ListEntry, ...]
    problems: tuple[Problem, ...]
    ended: bool
    labels: tuple[int, int] | None = None


def scan(file: Path, classes: int) -> Scan:
    """Read every line of `file`; nothing is raised for bad content, it is listed in `problems`.

    Tolerated: a byte order mark, CRLF, blank lines, spaces around and inside paths (the label follows the last one), Windows'
    separators, a leading `./`; two spellings of a path are one.
    Raises: UserError if the file cannot be read.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot read this list ({error.strerror}); check path and permissions") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = Problem(1, "text", f"not UTF-8 text (byte {error.start}); the file is damaged or not a list")
        return Scan(file, (), (problem,), True)
    rows: list[ListEntry] = []
    problems: list[Problem] = []
    labels: dict[str, ListEntry] = {}
    span: tuple[int, int] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found = parsed(number, line.strip(), classes)
        if (label := line.split()[-1]) and _INTEGER.fullmatch(label):
            span = (min(span[0], int(label)), max(span[1], int(label))) if span else (int(label), int(label))
        if isinstance(found, ListEntry):
            first = labels.setdefault(found.path, found)
            if first.label != found.label:
                what = f"{found.path} has label {found.label} here and {first.label} in line {first.line}"
                found = Problem(number, "contradiction", what)
        if isinstance(found, ListEntry):
            rows.append(found)
        else:
            problems.append(found)
    if not rows and not problems:
        problems.append(Problem(1, "text", "the list is empty"))
    return Scan(file, tuple(rows), tuple(problems), text.endswith("\n"), span)


def parsed(number: int, line: str, classes: int) -> ListEntry | Problem:
    """One line, without the spaces around it, as a row or as what is wrong with it."""
    parts = line.rsplit(None, 1)
    if len(parts) < 2:
        return Problem(number, "format", f"{line[:80]!r} is not '<path> <label>'")
    path, label = parts
    if _CONTROL.search(path):
        return Problem(number, "format", f"control characters in the path {path[:80]!r}")
    if not _INTEGER.fullmatch(label):
        return Problem(number, "label", f"label {label[:40]!r} of {path} is not an integer")
    if not 0 <= int(label) < classes:
        return Problem(number, "range", f"label {int(label)} of {path} lies outside 0..{classes - 1}")
    if _OUTSIDE.search(path):
        return Problem(number, "path", f"{path} is absolute or leaves the folder of the set")
    return ListEntry(number, plain_path(path), int(label))


def plain_path(path: str) -> str:
    """The one spelling of a relative path: forward slashes, no `.` and nothing empty between them."""
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def read(file: Path, classes: int) -> Scan:
    """`scan`, for use: every line must be good.

    Raises: UserError naming the file, the first bad lines, their number, and the remedy.
    """
    found = scan(file, classes)
    if found.problems:
        shown = "; ".join(f"line {p.line}: {p.text}" for p in found.problems[:3])
        more = f" and {len(found.problems) - 3} more" if len(found.problems) > 3 else ""
        raise UserError(
            f"{file}: {shown}{more}. {_from_one(found, classes)}"
            f"Each line must be '<relative path> <label>' with a label in 0..{classes - 1}."
            " Restore the list from where you got it; `karst-bench data audit DIR` shows every bad line."
        )
    return found


def _from_one(found: Scan, classes: int) -> str:
    """What to say of labels 1..N; nothing of others."""
    if found.labels != (1, classes):
        return ""
    return f"Its labels are 1..{classes}: they start at 1, and have to start at 0; take 1 from each, in every list of the set. "


def unique(rows: Sequence[ListEntry]) -> tuple[ListEntry, ...]:
    """The rows without repetitions of a path, the first of each kept."""
    first: dict[str, ListEntry] = {}
    for row in rows:
        first.setdefault(row.path, row)
    return tuple(first.values())


def text_sha256(rows: Iterable[ListEntry]) -> str:
    """SHA-256 of the list written plainly (LF, final newline): that of the file itself where it is written so."""
    return hashlib.sha256("".join(f"{row.path} {row.label}\n" for row in rows).encode(errors="surrogateescape")).hexdigest()


def lists_sha256(splits: Mapping[str, Sequence[ListEntry]]) -> str:
    """One hash over the lists of a task: their names and rows, in the order given."""
    joined = "".join(f"{name} {text_sha256(rows)}\n" for name, rows in splits.items())
    return hashlib.sha256(joined.encode()).hexdigest()


def check_disjoint(scans: Mapping[str, Scan], pairs: Iterable[tuple[str, str]]) -> None:
    """No image of one split may be in the other.

    Raises: UserError naming both lists and the first image they share.
    """
    for one, other in pairs:
        if one not in scans or other not in scans:
            continue
        shared = overlap(scans[one].rows, scans[other].rows)
        if shared:
            raise UserError(
                f"{_named(scans, one, other)} share {len(shared)} image(s), first {shared[0]}: what is"
                " trained on must not be tested on. Restore both lists from where you got them."
            )


def check_other_files(
    scans: Mapping[str, Scan], pairs: Iterable[tuple[str, str]], locate: Callable[[str], Path]
) -> None:
    """As `check_disjoint`, by the files themselves: links, and spellings that a file system takes for one, are one file.

    Raises: UserError naming both lists and the first file they share.
    """
    known: dict[str, dict[tuple[int, int], str]] = {}
    for one, other in pairs:
        if one not in scans or other not in scans:
            continue
        for name in (one, other):
            known.setdefault(name, dict(_files_of(scans[name].rows, locate)))
        if shared := known[one].keys() & known[other].keys():
            file = next(file for file in known[other] if file in shared)
            raise UserError(
                f"{_named(scans, one, other)} share {len(shared)} image(s), first {known[other][file]}, which is"
                f" the file {known[one][file]}: what is trained on must not be tested on. Restore both lists and their files."
            )


def _named(scans: Mapping[str, Scan], one: str, other: str) -> str:
    """Two lists by their files; two splits of one folder, or of one CSV, by their names in it."""
    same = scans[one].file == scans[other].file
    return f"{scans[one].file}: {one} and {other}" if same else f"{scans[one].file} and {scans[other].file}"


def _files_of(rows: Sequence[ListEntry], locate: Callable[[str], Path]) -> Iterator[tuple[tuple[int, int], str]]:
    for row in rows:
        with contextlib.suppress(OSError, ValueError):  # what is missing is told when it is opened
            found = os.stat(locate(row.path))  # noqa: PTH116 (as in images.py)
            yield (found.st_dev, found.st_ino), row.path


def overlap(one: Sequence[ListEntry], other: Sequence[ListEntry]) -> list[str]:
    """The paths that two lists share, in the order of the second."""
    seen = {row.path for row in one}
    return [row.path for row in other if row.path in seen]
