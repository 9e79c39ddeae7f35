"""dataset.source=own: class folders, a CSV or lists as a task; what they do not split is drawn here, the same every time."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from karst_bench import files
from karst_bench.data.cache.cache import Cache
from karst_bench.data.decode import SUFFIXES, any_deep, encoding_of, is_picture, is_rotated
from karst_bench.data.images import FileSource
from karst_bench.data.resize import Resize
from karst_bench.data.sources.fingerprint import images_sha256
from karst_bench.data.sources.lists import (
    ListEntry,
    Scan,
    check_disjoint,
    check_other_files,
    lists_sha256,
    parsed,
    plain_path,
    read,
)
from karst_bench.data.task import JoinedSplit, LazySplits, Split, Task
from karst_bench.errors import UserError
from karst_bench.own_sets import SPLITS, class_folders, own_class_names, read_csv, set_form, split_folders

PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
VAL_SHOTS = 4  # validation images of each class beside K shots, at most, as CoOp has them
Rows = Mapping[str, Sequence[ListEntry]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnRows:
    """A set as it lies there. home: what paths are relative to; rows: by split, or under `all`; said: what was passed over;
    files: what changes when a picture comes or goes."""

    home: Path
    list_of: Path
    rows: dict[str, list[ListEntry]]
    said: tuple[str, ...]
    files: tuple[Path, ...]


def load_own(dataset: Mapping[str, Any], *, cache: Cache, size: int, canvas: float | None = None) -> Task:
    """The task of dataset.root; splits train, val, trainval (all but with shots) and test, decoded when first asked for.

    Raises: UserError where nothing lies there, for what is no picture, and where a picture is in two splits.
    """
    found = read_own(dataset)
    rows, drawn = split_rows(found.rows, dataset)
    absent = absent_classes(rows, dataset["label_names"])
    for line in absent:
        log.warning("%s: %s", found.list_of, line)
    scans = {name: Scan(found.list_of, tuple(rows[name]), (), True) for name in SPLITS}
    locate = partial(_join, found.home)
    check_disjoint(scans, PAIRS)
    if not dataset["allow_duplicates"]:
        check_other_files(scans, PAIRS, locate)
    plain = Resize(dataset["transform"], size)
    trained = plain if canvas is None else Resize("fs_train", size, canvas)

    def opened(name: str, resize: Resize) -> Callable[[], Split]:
        return partial(_open, cache, dataset, name, rows[name], locate, found.list_of, resize)

    makers = {"train": opened("train", trained), "val": opened("val", plain), "test": opened("test", plain)}
    if dataset["shots"] is None:
        makers["trainval"] = lambda: JoinedSplit("trainval", (splits["train"], opened("val", trained)()))
    splits = LazySplits(makers)
    paths = {row.path: locate(row.path) for name in SPLITS for row in rows[name]}
    some = list(paths.values())[:: max(1, len(paths) // 16)]
    notes = (*drawn, *found.said, *absent, *depth_notes(dataset, some), *_rotation_notes(some))
    return Task(
        name=dataset["name"], classes=dataset["classes"], splits=splits, list_sha256=lists_sha256(rows),
        encoding=encoding_of(some), source="own", own_split=bool(drawn), notes=notes, files=found.files,
        images=tuple(paths.values()), images_sha256=images_sha256(paths, cache.root), images_in_id=True,
    )  # fmt: skip


def depth_notes(dataset: Mapping[str, Any], some: list[Path]) -> tuple[str, ...]:
    """What a record says of pictures of more than 8 bits: the one level that is white in all of them."""
    if not any_deep(some):
        return ()
    white = dataset.get("white")
    return (f"pictures of more than 8 bits a channel: level {white or '65535 (floats: 1.0)'} is white in all of them",)


def absent_classes(rows: Rows, names: Sequence[str]) -> list[str]:
    """Which classes have no picture to train on, or none to test: what an accuracy then says nothing of."""
    said = []
    for split, what in (("train", "trained on"), ("test", "tested")):
        seen = {row.label for row in rows[split]}
        if lacking := [name for label, name in enumerate(names) if label not in seen]:
            said.append(f"{len(lacking)} of {len(names)} classes are not {what}, as {split} has no picture of theirs: "
                        f"{', '.join(lacking)[:200]}")  # fmt: skip
    return said


def _rotation_notes(some: list[Path]) -> tuple[str, ...]:
    """What cameras and telephones say of how they were held, which no reader of the field looks at."""
    turned = sum(map(is_rotated, some))
    if not turned:
        return ()
    said = f"{turned} of {len(some)} pictures looked at carry an EXIF rotation, which is not applied"
    log.warning("%s: turn the files themselves where it matters", said)
    return (said,)


def read_own(dataset: Mapping[str, Any]) -> OwnRows:
    """The pictures of dataset.root with their labels. Raises: UserError naming the folder, file or line that is wrong."""
    root = Path(str(dataset["root"]))
    form = set_form(root)
    names = {name: label for label, name in enumerate(own_class_names(root))}
    if form == "csv":
        return _from_csv(root, names)
    if form == "lists":
        files = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").is_file()}
        rows = {split: list(read(file, len(names)).rows) for split, file in files.items()}
        return OwnRows(root, root, rows, (), tuple(files.values()))
    return _from_folders(root, names, split_folders(root) if form == "divided" else {"all": root})


def _from_folders(root: Path, names: Mapping[str, int], parts: Mapping[str, Path]) -> OwnRows:
    rows: dict[str, list[ListEntry]] = {}
    passed: list[str] = []
    loops: list[str] = []
    folders = {root}
    for split, part in parts.items():
        rows[split] = []
        for folder in class_folders(part):
            if folder.name not in names:
                raise UserError(f"{folder}: a class that train has not; its classes are {', '.join(names)[:200]}")
            before = len(rows[split])
            for file in _files(folder, folders, loops):
                path = file.relative_to(root).as_posix()
                if file.suffix.lower() in SUFFIXES or is_picture(file):
                    rows[split].append(ListEntry(len(rows[split]) + 1, path, names[folder.name]))
                else:
                    passed.append(path)
            if len(rows[split]) == before:
                raise UserError(f"{folder}: no picture in it; put some there, or remove the folder, which counts as a class")
    others = [path.name for path in class_folders(root) if path not in parts.values()] if "all" not in parts else []
    said = [f"no part of the set: {', '.join(others)[:200]}"] if others else []
    said += [f"{len(passed)} files are no pictures and were passed over, first {files.utf8(passed[0])}"] if passed else []
    if loops:
        said.append(f"{len(loops)} links lead to folders that they lie in and were not followed, first "
                    f"{files.utf8(Path(loops[0]).relative_to(root).as_posix())}")  # fmt: skip
    for line in said:
        log.warning("%s: %s", root, line)
    return OwnRows(root, root, rows, tuple(said), tuple(sorted(folders)))


def _files(folder: Path, folders: set[Path], loops: list[str], above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every file below a class's folder, hidden ones apart; the folders it lies in are noted, and links back up to one of them."""
    folders.add(folder)
    above = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() or not path.exists():  # a link to nothing is told when it is opened
            yield path
        elif not path.is_dir():
            continue  # a pipe or a device, which may never end
        elif any(place.is_relative_to(path.resolve()) for place in above):
            loops.append(str(path))
        else:
            yield from _files(path, folders, loops, above)


def _from_csv(file: Path, names: Mapping[str, int]) -> OwnRows:
    rows: dict[str, list[ListEntry]] = defaultdict(list)
    labels: dict[str, str] = {}
    for number, (written, label, split) in enumerate(read_csv(file), start=2):
        path = plain_path(written)
        absolute = written.startswith("/") or written[1:3] in (":\\", ":/")
        if absolute or ".." in path.split("/"):
            raise UserError(f"{file}: row {number}: {written} is absolute or leaves the CSV's folder, which paths are relative to")
        if path in labels:
            raise UserError(f"{file}: row {number}: {written} stands there twice, as {labels[path]} and as {label}; keep one row")
        labels[path] = label
        rows[split or "all"].append(ListEntry(number, path, names[label]))
    if "all" not in rows and "train" not in rows:
        raise UserError(f"{file}: no row is of the split train")
    return OwnRows(file.parent, file, dict(rows), (), (file,))


def split_rows(found: Rows, dataset: Mapping[str, Any]) -> tuple[dict[str, list[ListEntry]], tuple[str, ...]]:
    """({train, val, test: rows}, what was drawn, for the record), each class apart and by dataset.split_seed.

    Test is drawn first, so that it is the same whatever shots and limit are; then val, then what is trained on. Raises:
    UserError where a class has too few images.
    """
    seed, said = dataset["split_seed"], []
    train, test = list(found.get("train", found.get("all", ()))), list(found.get("test", ()))
    if not test:
        test, train = _draw(train, dataset["test_share"], f"test {seed}")
        said.append(f"test: {dataset['test_share']:.0%} of each class, drawn here with split_seed={seed}")
    val = list(found.get("val", ()))
    shots, limit = dataset["shots"], dataset["limit"]
    if limit is not None:
        kept = _limited([*train, *val], limit, seed)
        val, train = _draw(kept, 0.2, f"val {seed}")
        said.append(f"limit={limit}: {len(train)} to fit and {len(val)} to validate, drawn here with split_seed={seed}")
    elif not val:
        val, train = _draw(train, dataset["val_share"], f"val {seed}")
        said.append(f"val: {dataset['val_share']:.0%} of each class's training images, drawn here with split_seed={seed}")
    if shots is not None:
        train, val = _at_most(train, shots, f"shots {seed}"), _at_most(val, min(shots, VAL_SHOTS), f"shots {seed}")
        said.append(f"shots={shots}: {len(train)} to fit and {len(val)} to validate, drawn here with split_seed={seed}")
    parts = {"train": train, "val": val, "test": test}
    for name, rows in parts.items():
        if not rows:
            raise UserError(f"dataset.root={dataset['root']}: {name} would have no image; give more images, or a split of your own")
    return parts, tuple(f"own split: {line}" for line in said)


def write_lists_of(dataset: Mapping[str, Any], to: Path) -> dict[str, int]:
    """{file: its lines} of the lists train.txt, val.txt and test.txt of a set of one's own and its classes.txt, written to `to`.

    Raises: UserError where one of them is there already, and for a set that cannot be read.
    """
    found = read_own(dataset)
    rows, _ = split_rows(found.rows, dataset)
    lines = {f"{name}.txt": [f"{row.path} {row.label}" for row in rows[name]] for name in SPLITS}
    names = own_class_names(Path(str(dataset["root"])))
    for split in SPLITS:
        for row, line in zip(rows[split], lines[f"{split}.txt"], strict=True):
            _check_listed(row, line, len(names))
    if odd := [name for name in names if name != name.strip() or len(name.splitlines()) != 1]:
        raise UserError(f"classes.txt cannot hold the name {odd[0]!r} of a class; rename its folder")
    lines["classes.txt"] = list(names)
    if there := [name for name in lines if (to / name).exists()]:
        raise UserError(f"{to / there[0]} is there already; remove it, or choose another folder with to=")
    for name, text in lines.items():
        files.write(to / name, ("\n".join(text) + "\n").encode(), setting="to")
    return {name: len(text) for name, text in lines.items()}


def _check_listed(row: ListEntry, line: str, classes: int) -> None:
    """Raises: UserError where a list would not give back the path: a line break in it, bytes that are no UTF-8, a backslash."""
    if files.utf8(line) != line or parsed(row.line, line.strip(), classes) != row:
        raise UserError(f"a list cannot hold the path {row.path!r}; rename the file, or leave the set as it lies")


def _shuffled(rows: Sequence[ListEntry], salt: str) -> dict[int, list[ListEntry]]:
    """{label: its rows in the order of a hash of salt and path}: the same on every machine, and hardly changed by new rows."""
    found: dict[int, list[ListEntry]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(f"{salt}/{row.path}".encode(errors="surrogateescape")).digest()):
        found[row.label].append(row)
    return found


def _draw(rows: Sequence[ListEntry], share: float, salt: str) -> tuple[list[ListEntry], list[ListEntry]]:
    """(the share of each class, the rest), both in the rows' order; a class of two images or more gives one at least, never all."""
    chosen: set[str] = set()
    for members in _shuffled(rows, salt).values():
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen |= {row.path for row in members[:count]}
    return [row for row in rows if row.path in chosen], [row for row in rows if row.path not in chosen]


def _at_most(rows: Sequence[ListEntry], count: int, salt: str) -> list[ListEntry]:
    """`count` images of each class. Raises: nothing; a class with fewer gives what it has."""
    chosen = {row.path for members in _shuffled(rows, salt).values() for row in members[:count]}
    return [row for row in rows if row.path in chosen]


def _limited(rows: Sequence[ListEntry], limit: int, seed: int) -> list[ListEntry]:
    """`limit` images, the classes in their proportions: the i-th of n of a class comes at (i + 1/2) / n."""
    places = [((i + 0.5) / len(members), row.label, row.path) for members in _shuffled(rows, f"limit {seed}").values()
              for i, row in enumerate(members)]  # fmt: skip
    chosen = {path for *_, path in sorted(places)[:limit]}
    return [row for row in rows if row.path in chosen]


def _open(
    cache: Cache, dataset: Mapping[str, Any], name: str, rows: Sequence[ListEntry], locate: Callable[[str], Path], list_of: Path,
    resize: Resize,
) -> Split:  # fmt: skip
    source = FileSource(dataset["name"].replace("/", "-"), name, rows, locate, list_of, dataset.get("white"))
    return cache.open(source, resize, native=name in ("test", "val") and resize.name == "vtab")


def _join(home: Path, path: str) -> Path:
    return home / path
