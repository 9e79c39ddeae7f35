"""dataset.source=folder: VTAB-1K folders and few-shot lists as they are found on disk."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from karst_bench.data.cache.cache import Cache
from karst_bench.data.decode import encoding_of
from karst_bench.data.images import FileSource
from karst_bench.data.resize import Resize
from karst_bench.data.sources.fingerprint import images_sha256
from karst_bench.data.sources.layouts import FGVC_SPLITS, VTAB_SPLITS, fewshot_files, find_images, find_lists
from karst_bench.data.sources.lists import (
    ListEntry,
    Scan,
    check_disjoint,
    check_other_files,
    lists_sha256,
    read,
    unique,
)
from karst_bench.data.sources.manifest import read_manifest
from karst_bench.data.sources.own import depth_notes
from karst_bench.data.sources.published import changed_since_first_use, differences, is_published
from karst_bench.data.task import JoinedSplit, LazySplits, Split, Task
from karst_bench.errors import UserError

VTAB_PAIRS = (("train800", "val200"), *((name, "test") for name in VTAB_SPLITS[:3]))  # splits that share no image
LIST_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
log = logging.getLogger(__name__)


def load_folder(dataset: Mapping[str, Any], *, data_root: Path, cache: Cache, size: int, canvas: float | None = None) -> Task:
    """The task of a dataset's configuration, read from its folder; splits are decoded when they are first asked for.

    size: of the network's input. canvas: side over it of the few-shot training images, which crops are taken from.
    Raises: UserError for missing data, bad lines, and lists that contradict each other.
    """
    home = find_lists(dataset, data_root=data_root)
    load = {"fewshot": _fewshot, "fgvc": _fgvc}.get(dataset["suite"], _vtab)
    return load(dataset, home, data_root, cache, size, canvas)


def _vtab(dataset: Mapping[str, Any], home: Path, _root: Path, cache: Cache, size: int, _canvas: float | None) -> Task:
    scans = vtab_scans(dataset, home)
    resize = Resize(dataset["transform"], size)
    makers: dict[str, Callable[[], Split]] = {}
    for name in VTAB_SPLITS:
        if name in scans:
            locate = partial(_join, home)
            makers[name] = partial(_open, cache, dataset, name, scans[name], scans[name].rows, locate, resize)
        else:
            makers[name] = partial(_refuse, dataset, home / f"{name}.txt")
    if "train800val200" not in scans and {"train800", "val200"} <= set(scans):
        makers["train800val200"] = lambda: JoinedSplit("train800val200", (splits["train800"], splits["val200"]))
    splits = LazySplits(makers)
    some = scans.get("train800val200") or next(iter(scans.values()))
    encoding = encoding_of([home / row.path for row in some.rows[:: max(1, len(some.rows) // 4)]])
    return _task(dataset, scans, splits, encoding, cache, home=home, locate=partial(_join, home), pairs=VTAB_PAIRS)


def vtab_scans(dataset: Mapping[str, Any], home: Path) -> dict[str, Scan]:
    """The lists of a VTAB-1K folder that are there, every line good, no image both trained on and tested on."""
    files = {name: home / f"{name}.txt" for name in VTAB_SPLITS}
    scans = {name: read(file, dataset["classes"]) for name, file in files.items() if file.is_file()}
    check_disjoint(scans, VTAB_PAIRS)
    _check_union(scans)
    return scans


def _check_union(scans: Mapping[str, Scan]) -> None:
    """train800val200 must carry the labels of train800 and val200: the one check that a changed label cannot pass."""
    if not {"train800", "val200", "train800val200"} <= set(scans):
        return
    parts = sorted(row.label for name in ("train800", "val200") for row in scans[name].rows)
    whole = sorted(row.label for row in scans["train800val200"].rows)
    if len(parts) == len(whole) and parts != whole:
        differing = sum(one != other for one, other in zip(parts, whole, strict=True))
        raise UserError(
            f"{scans['train800val200'].file} holds other labels than train800.txt and val200.txt beside it (about"
            f" {differing} of {len(whole)} differ): one of the three was changed. Restore them from where you got them."
        )


def _fewshot(dataset: Mapping[str, Any], home: Path, root: Path, cache: Cache, size: int, canvas: float | None) -> Task:
    files = fewshot_files(dataset, home)
    scans = {name: read(file, dataset["classes"]) for name, file in files.items() if file.is_file()}
    check_disjoint(scans, LIST_PAIRS)
    folders = find_images(dataset, data_root=root, lists=home)
    locate = Locator(folders)
    notes = []
    makers: dict[str, Callable[[], Split]] = {}
    for name, file in files.items():
        if name not in scans:
            makers[name] = partial(_refuse, dataset, file)
            continue
        rows: Sequence[ListEntry] = scans[name].rows
        if name == "train":
            rows = unique(rows)
            if len(rows) < len(scans[name].rows):
                notes.append(f"{file.name}: {len(scans[name].rows)} rows of {len(rows)} images; each was read once")
        resize = _resize(dataset, name, size, canvas)
        makers[name] = partial(_open, cache, dataset, name, scans[name], rows, locate, resize)
    return _task(dataset, scans, LazySplits(makers), "native", cache, tuple(notes), home=home, locate=locate, pairs=LIST_PAIRS)


def _fgvc(dataset: Mapping[str, Any], home: Path, _root: Path, cache: Cache, size: int, canvas: float | None) -> Task:
    scans = {name: read(home / f"{name}.txt", dataset["classes"]) for name in FGVC_SPLITS}
    check_disjoint(scans, LIST_PAIRS)
    makers: dict[str, Callable[[], Split]] = {}
    for name, found in scans.items():
        resize = _resize(dataset, name, size, canvas)
        makers[name] = partial(_open, cache, dataset, name, found, found.rows, partial(_join, home), resize)
    locate = partial(_join, home)
    return _task(dataset, scans, LazySplits(makers), "native", cache, home=home, locate=locate, pairs=LIST_PAIRS)


def _resize(dataset: Mapping[str, Any], split: str, size: int, canvas: float | None) -> Resize:
    """Training images that crops are taken from are kept larger than the input."""
    if split == "train" and canvas is not None:
        return Resize("fs_train", size, canvas)
    return Resize(dataset["transform"], size)


class Locator:
    """Finds the image of a list's path in one of several folders; the last folder that had one is tried first."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)

    def __call__(self, path: str) -> Path:
        for number, folder in enumerate(self.folders):
            if (folder / path).is_file():
                if number:
                    self.folders.insert(0, self.folders.pop(number))
                return folder / path
        return self.folders[0] / path


def _join(home: Path, path: str) -> Path:
    return home / path


def _open(
    cache: Cache,
    dataset: Mapping[str, Any],
    name: str,
    found: Scan,
    rows: Sequence[ListEntry],
    locate: Callable[[str], Path],
    resize: Resize,
) -> Split:
    source = FileSource(dataset["name"].replace("/", "-"), name, rows, locate, found.file, dataset.get("white"))
    return cache.open(source, resize, native=name in ("test", "val") and resize.name == "vtab")


def _refuse(dataset: Mapping[str, Any], file: Path) -> Split:
    command = "fewshot" if dataset["suite"] == "fewshot" else "prepare"
    raise UserError(
        f"{file}: this list is missing, and the run asks for it. Restore it, or see `karst-bench data {command} --help`."
    )


def _task(
    dataset: Mapping[str, Any],
    scans: Mapping[str, Scan],
    splits: Mapping[str, Split],
    encoding: str,
    cache: Cache,
    notes: tuple[str, ...] = (),
    *,
    home: Path,
    locate: Callable[[str], Path],
    pairs: Sequence[tuple[str, str]],
) -> Task:
    if not dataset["allow_duplicates"]:
        check_other_files(scans, pairs, locate)
    paths = {row.path: locate(row.path) for scan in scans.values() for row in scan.rows}
    notes += depth_notes(dataset, list(paths.values())[:: max(1, len(paths) // 4)])
    found = differences(dataset, scans)
    if found:
        log.warning("%s: own split, not the published one: %s", dataset["name"], "; ".join(found))
        notes += (f"own split: {'; '.join(found)}",)
    manifest = read_manifest(home)
    if manifest is not None:
        notes += manifest.notes()
    cut = [scan.file.name for scan in scans.values() if not scan.ended]
    if cut:
        notes += (f"no newline at the end of {', '.join(cut)}: was the last line cut?",)
    list_sha256 = lists_sha256({name: scan.rows for name, scan in scans.items()})
    if dataset["suite"] == "vtab":
        changed = changed_since_first_use(cache.root / "lists.json", home, list_sha256)
        if changed:
            log.warning("%s: %s", dataset["name"], changed)
            notes += (changed,)
    return Task(
        name=dataset["name"],
        classes=dataset["classes"],
        splits=splits,
        list_sha256=list_sha256,
        encoding=encoding,
        source="folder",
        own_split=bool(found) or (manifest is not None and bool(manifest.own_split)),
        notes=notes,
        files=tuple(scan.file for scan in scans.values()),
        images=tuple(paths.values()),
        images_sha256=images_sha256(paths, cache.root),
        images_in_id=not is_published(dataset),
    )
