"""What is wrong with a folder of sets: every line and every image looked at, nothing changed."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from karst_bench.data.decode import BadImageError, encoding_of, is_rotated, read_bytes, read_image
from karst_bench.data.images import workers
from karst_bench.data.sources.folder import Locator
from karst_bench.data.sources.layouts import FGVC_SPLITS, VTAB_SPLITS, find_images, find_lists
from karst_bench.data.sources.lists import Scan, lists_sha256, overlap, scan, text_sha256
from karst_bench.data.sources.own import absent_classes, read_own, split_rows
from karst_bench.data.sources.published import differences, fewshot_sums
from karst_bench.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class Finding:
    """One set, as found. The first three lists must be empty for a run to start; paths are as the lists write them."""

    option: str
    home: Path
    unreadable: list[str] = field(default_factory=list)
    out_of_range: list[str] = field(default_factory=list)
    overlap: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: int = 0
    classes_seen: int = 0
    classes: int = 0
    label_range: tuple[int, int] | None = None
    duplicates: int = 0
    encoding: str = ""
    list_sha256: str = ""
    list_state: str = ""

    @property
    def sound(self) -> bool:
        """Whether a run would start."""
        return not (self.unreadable or self.out_of_range or self.overlap)

    def as_json(self) -> dict[str, list[str]]:
        """The part that programs read."""
        return {
            "unreadable": self.unreadable,
            "out_of_range": self.out_of_range,
            "overlap": self.overlap,
            "warnings": self.warnings,
        }


def audit(root: Path, datasets: Mapping[str, Mapping[str, Any]], *, images: bool) -> dict[str, Finding]:
    """{option: finding} of the sets that are under `root` (paths.data). images: also read every image.

    Raises: UserError if there is none of them.
    """
    found: dict[str, Finding] = {}
    for option, dataset in datasets.items():
        try:
            home = find_lists(dataset, data_root=root)
        except UserError:
            continue
        log.info("%s: %s", option, home)
        found[option] = audit_task(dataset, root=root, home=home, images=images)
    if not found:
        itself = (root / "test.txt").is_file()
        hint = f"; it is itself a set, so give its parent, root={root.resolve().parent}" if itself else ""
        raise UserError(
            f"root={root}: none of the {len(datasets)} sets is here (expected vtab-1k/<task>/*.txt or"
            f" few-shot/<set>/annotations/*){hint}. Pictures of your own: tasks=folder. `karst-bench data status` says what is"
            " here, `karst-bench data prepare` and `karst-bench data fewshot` bring sets into place."
        )
    return found


def audit_task(dataset: Mapping[str, Any], *, root: Path, home: Path, images: bool) -> Finding:
    """One set: its lists line by line, then each image they name once."""
    scans = {name: scan(file, dataset["classes"]) for name, file in list_files(dataset, home).items()}
    finding = Finding(dataset["name"], home, classes=dataset["classes"])
    _check_lists(finding, dataset, scans)
    locate: Callable[[str], Path] = partial(_join, home)
    if dataset["suite"] == "fewshot":
        locate = Locator(find_images(dataset, data_root=root, lists=home))
    paths = list(dict.fromkeys(row.path for found in scans.values() for row in found.rows))
    files = {path: locate(path) for path in paths}
    finding.files = len(files)
    if images and files:
        _check_images(finding, dataset, scans, files)
    return finding


def audit_own(dataset: Mapping[str, Any], *, images: bool) -> Finding:
    """A set of one's own (dataset.root), as it would be split. Pictures that are byte for byte in two splits are warned of.

    Raises: UserError where it cannot be read at all.
    """
    found = read_own(dataset)
    rows, drawn = split_rows(found.rows, dataset)
    scans = {name: Scan(found.list_of, tuple(part), (), True) for name, part in rows.items()}
    labels = {row.label for part in rows.values() for row in part}
    finding = Finding(dataset["name"], found.home, classes=dataset["classes"], classes_seen=len(labels))
    finding.label_range = (min(labels), max(labels))
    finding.warnings += [*found.said, *absent_classes(rows, dataset["label_names"]), *drawn]
    finding.list_sha256, finding.list_state = lists_sha256(rows), "own split" if drawn else "as given"
    files = {row.path: found.home / row.path for part in rows.values() for row in part}
    finding.files = len(files)
    if images:
        _check_images(finding, dataset, scans, files)
        if finding.overlap:
            finding.warnings.append(f"{len(finding.overlap)} pictures are byte for byte in another split too, first "
                                    f"{finding.overlap[0]}; an accuracy on them is remembered")  # fmt: skip
    shared = (overlap(scans[one].rows, scans[other].rows) for one, other in _pairs(scans))
    finding.overlap = list(dict.fromkeys(path for paths in shared for path in paths))
    return finding


def list_files(dataset: Mapping[str, Any], home: Path) -> dict[str, Path]:
    """The lists that are there, by split; of few-shot sets all of them."""
    if dataset["suite"] == "vtab":
        files = {name: home / f"{name}.txt" for name in VTAB_SPLITS}
    elif dataset["suite"] == "fgvc":
        files = {name: home / f"{name}.txt" for name in FGVC_SPLITS}
    else:
        names = sorted(fewshot_sums()[dataset["folder"]])
        files = {name.replace("_meta.list", "").replace(".", "_"): home / name for name in names}
    return {name: file for name, file in files.items() if file.is_file()}


def _check_lists(finding: Finding, dataset: Mapping[str, Any], scans: Mapping[str, Scan]) -> None:
    for found in scans.values():
        finding.out_of_range += [f"{found.file.name}:{problem.line}: {problem.text}" for problem in found.problems]
        finding.duplicates += len(found.rows) - len({row.path for row in found.rows})
        if not found.ended:
            finding.warnings.append(f"{found.file.name} does not end with a newline: was its last line cut?")
    labels = [row.label for found in scans.values() for row in found.rows]
    finding.classes_seen = len(set(labels))
    finding.label_range = (min(labels), max(labels)) if labels else None
    if finding.duplicates:
        finding.warnings.append(f"{finding.duplicates} rows repeat an image of their own list")
    if dataset["suite"] == "vtab":
        absent = [name for name in VTAB_SPLITS if name not in scans]
        finding.warnings += [f"{name}.txt is missing" for name in absent]
        finding.out_of_range += _union_problem(scans)
    for one, other in _pairs(scans):
        finding.overlap += overlap(scans[one].rows, scans[other].rows)
    finding.overlap = list(dict.fromkeys(finding.overlap))
    finding.list_sha256 = lists_sha256({name: found.rows for name, found in scans.items()})
    own = differences(dataset, {name: found for name, found in scans.items() if name in (*VTAB_SPLITS, "val", "test")})
    if dataset["suite"] == "fewshot":
        own += _foreign_lists(dataset, scans)
    finding.list_state = "own split" if own else "published" if dataset["suite"] == "fewshot" else "sizes as published"
    finding.warnings += [f"own split: {text}" for text in dict.fromkeys(own)]


def _foreign_lists(dataset: Mapping[str, Any], scans: Mapping[str, Scan]) -> list[str]:
    sums = fewshot_sums()[dataset["folder"]]
    changed = [found.file.name for found in scans.values() if text_sha256(found.rows) != sums.get(found.file.name)]
    missing = sorted(set(sums) - {found.file.name for found in scans.values()})
    return [f"{name} differs from the published list" for name in changed] + (
        [f"{len(missing)} of {len(sums)} lists are missing, first {missing[0]}"] if missing else []
    )


def _union_problem(scans: Mapping[str, Scan]) -> list[str]:
    if not {"train800", "val200", "train800val200"} <= set(scans):
        return []
    parts = Counter(row.label for name in ("train800", "val200") for row in scans[name].rows)
    whole = Counter(row.label for row in scans["train800val200"].rows)
    if parts.total() != whole.total() or parts == whole:
        return []
    extra = dict(whole - parts)
    return [f"train800val200.txt: its labels are not those of train800.txt and val200.txt (label: excess {extra})"]


def _pairs(scans: Iterable[str]) -> list[tuple[str, str]]:
    """Which lists may not share images: training lists among themselves may, where one contains the other."""
    names = list(scans)
    trained = [name for name in names if name.startswith("train")]
    pairs = [(name, "test") for name in [*trained, "val200", "val"] if name in names and "test" in names]
    if "val" in names:
        pairs += [(name, "val") for name in trained]
    if {"train800", "val200"} <= set(names):
        pairs.append(("train800", "val200"))
    return pairs


def _check_images(
    finding: Finding, dataset: Mapping[str, Any], scans: Mapping[str, Scan], files: Mapping[str, Path]
) -> None:
    with ThreadPoolExecutor(workers()) as pool:
        digests = dict(zip(files, pool.map(_digest, files.values()), strict=True))
    finding.unreadable = [path for path, digest in digests.items() if digest is None]
    readable = [path for path, digest in digests.items() if digest is not None]
    some = [files[path] for path in readable[:: max(1, len(readable) // 32)]]
    finding.encoding = encoding_of(some) if some else ""
    rotated = sum(is_rotated(file) for file in some)
    if rotated:
        finding.warnings.append(f"{rotated} of {len(some)} images looked at carry an EXIF rotation; it is not applied")
    if finding.encoding.startswith("jpeg") and dataset["suite"] == "vtab":
        finding.warnings.append(f"stored as {finding.encoding}: lossy, compare only with numbers on the same encoding")
    allow_duplicates = _equal_images(scans, digests)
    if allow_duplicates and dataset["allow_duplicates"]:
        finding.warnings.append(f"{len(allow_duplicates)} images of one split are also in another, as is known of this set")
    elif allow_duplicates:
        finding.overlap = list(dict.fromkeys(finding.overlap + allow_duplicates))


def _equal_images(scans: Mapping[str, Scan], digests: Mapping[str, str | None]) -> list[str]:
    """Paths of the second list of a pair whose bytes the first list holds too."""
    found: list[str] = []
    for one, other in _pairs(scans):
        seen = {digests[row.path] for row in scans[one].rows} - {None}
        found += [row.path for row in scans[other].rows if digests[row.path] in seen]
    return list(dict.fromkeys(found))


def _digest(file: Path) -> str | None:
    """A hash of the file's bytes, or None if it is no readable image."""
    try:
        read_image(file)
        return hashlib.blake2b(read_bytes(file), digest_size=16).hexdigest()
    except BadImageError:
        return None


def _join(home: Path, path: str) -> Path:
    return home / path
