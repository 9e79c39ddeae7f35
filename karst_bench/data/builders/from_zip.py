"""VTAB-1K folders from the zip that other repositories hand round: checked, compared with the rule, said to be JPEG."""

import logging
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from karst_bench.data.builders.archive import MEMBER, Member, members
from karst_bench.data.builders.expected import expected_labels
from karst_bench.data.builders.obtain import DOWNLOADS, check
from karst_bench.data.builders.publish import publish
from karst_bench.data.builders.raw import Archive
from karst_bench.data.builders.staging import staging
from karst_bench.data.decode import encoding_of
from karst_bench.data.sources.layouts import VTAB_SPLITS
from karst_bench.data.sources.lists import read
from karst_bench.data.sources.manifest import UsedArchive
from karst_bench.data.sources.vtab_splits import SPLITS
from karst_bench.download import download, is_web_page
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
HUB = "https://huggingface.co/datasets/XiN0919/VTAB-1k/resolve/main/vtab-1k.zip"
DRIVE = "https://drive.usercontent.google.com/download?id=1yZKwiKdsBzTfBgnStRveYMokc7GMMd5p&export=download&confirm=t"
COPIES = {"hub": HUB, "drive": DRIVE}
NAME = "vtab-1k.zip"
Rows = dict[str, list[tuple[str, int]]]


def find_zip(archive: str | Path | None, root: Path) -> Path:
    """The zip: a path, an address, one of the names hub (4.66 GB) and drive, or None for hub.

    Raises: UserError where it cannot be fetched, or is a web page (what the drive answers when too many ask for it).
    """
    address = COPIES.get(str(archive), str(archive) if "://" in str(archive) else HUB if archive is None else None)
    if address is None:
        path = Path(str(archive))
        path = path / NAME if path.is_dir() and (path / NAME).is_file() else path
    else:
        path = root / DOWNLOADS / ("drive-" + NAME if address == DRIVE else NAME)
        if not path.is_file():
            log.info("fetching %s (about 4.7 GB) to %s", address, path)
            download(address, path)
    if not path.exists():
        raise UserError(f"archive={archive}: no such file; give the zip, its address, or one of {', '.join(COPIES)}")
    if path.is_file() and (is_web_page(path) or not zipfile.is_zipfile(path)):
        raise UserError(
            f"{path}: is no zip{' but a web page' if is_web_page(path) else ''}; fetch it by hand, archive=PATH"
        )
    return path


class TaskZip:
    """What a zip (or the folder it was unpacked to) holds of each task. index: {name of a folder: {file: member}}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: dict[str, set[str]] = {}
        for member in members(path):
            parts = member.name.split("/")
            for depth in (1, 2, 3):  # the tasks lie at the top, below vtab-1k/, or below one folder more
                if len(parts) > depth and (parts[depth] == "images" or parts[depth] in _LISTS):
                    self.index.setdefault("/".join(parts[:depth]), set()).add("/".join(parts[depth:]))
                    break

    def folder_of(self, dataset: Mapping[str, Any]) -> str | None:
        """Where a task lies in it, under any of its names; None where it is not among them."""
        names = {dataset["folder"], dataset["task"], *dataset.get("aliases", ())}
        fitting = [
            folder for folder, held in self.index.items() if folder.rpartition("/")[2] in names and held & _LISTS
        ]
        return min(fitting, key=len) if fitting else None

    def use(self) -> tuple[UsedArchive, ...]:
        """The zip's line of the manifest."""
        return check("vtab zip", (Archive(self.path.name),), {self.path.name: self.path}, verify=False)


_LISTS = {f"{split}.txt" for split in VTAB_SPLITS}


def build_zip(dataset: Mapping[str, Any], home: Path, found: TaskZip, used: tuple[UsedArchive, ...]) -> None:
    """The folder `home` of a task as the zip has it, file for file, after its lists were read and its files counted.

    Raises: UserError for a bad list, a file that a list names and the zip lacks, or an image that cannot be read.
    """
    folder = found.folder_of(dataset)
    if folder is None:
        held = sorted({name.rpartition("/")[2] for name in found.index})
        raise UserError(f"{found.path}: does not hold {dataset['name']}; it holds {len(held)} tasks: {', '.join(held)}")
    plan = {"task": dataset["name"], "zip": [[item.name, item.size, item.sha256] for item in used]}
    with staging(home, plan) as place:
        rows = _lists(dataset, found, folder, place.folder)
        missing = {path for listed in rows.values() for path, _ in listed} - set(place.files)
        absent = missing - found.index[folder]
        if absent:
            raise UserError(
                f"{found.path}: lacks {len(absent)} files that the lists of {folder} name, first {min(absent)}"
            )
        place.write_all(_jobs(found.path, folder, missing), len(missing))
        paths = [place.folder / path for path, _ in rows["train800"][:: max(1, len(rows["train800"]) // 16)]]
        encoding = encoding_of(paths)
        log.info("%s: stored as %s; compare only with numbers on the same encoding", dataset["name"], encoding)
        for text in differences_from_rule(dataset, rows):
            log.warning("%s: %s", dataset["name"], text)
        own = "; ".join(differences_from_rule(dataset, rows))
        publish(dataset, place, rows, source="zip", encoding=encoding, archives=used, own_split=own)


def _lists(dataset: Mapping[str, Any], found: TaskZip, folder: str, target: Path) -> Rows:
    """The task's lists, written beside its images and read as a run would read them."""
    wanted = {f"{folder}/{name}": name for name in _LISTS & found.index[folder]}
    for member in members(found.path):
        name = wanted.get(member.name)
        if name is not None:
            (target / name).write_bytes(member.read())
    absent = [name for name in _LISTS if not (target / name).is_file()]
    if absent:
        raise UserError(f"{found.path}: {folder} has no {', '.join(sorted(absent))}; it is not whole")
    found_rows: Rows = {}
    for split in VTAB_SPLITS:
        listed = read(target / f"{split}.txt", dataset["classes"]).rows
        found_rows[split] = [(row.path, row.label) for row in listed]
        odd = [row.path for row in listed if not row.path.startswith("images/")]
        if odd:
            raise UserError(f"{found.path}: {folder}/{split}.txt names {odd[0]}, which is not below images/")
    return found_rows


def _jobs(path: Path, folder: str, wanted: set[str]) -> Iterator[tuple[str, Any]]:
    for member in members(path):
        name = member.name.removeprefix(folder + "/")
        if name in wanted and name != member.name:
            yield name, partial(bytes, _read(member))


def _read(member: Member) -> bytes:
    return member.read(MEMBER)


def differences_from_rule(dataset: Mapping[str, Any], rows: Mapping[str, list[tuple[str, int]]]) -> list[str]:
    """In what lists differ from VTAB-1K's rule: sizes, and the labels where the rule gives them without the archive."""
    found = []
    for split in SPLITS:
        if len(rows[split]) != dataset["sizes"][split]:
            found.append(f"{split} has {len(rows[split])} images, not {dataset['sizes'][split]}")
            continue
        expected = expected_labels(dataset["task"], split)
        if expected is not None:
            wrong = (expected - Counter(label for _, label in rows[split])).total()
            if wrong:
                found.append(f"{split}: {wrong} labels are not those of the images that the rule chooses")
    return found
