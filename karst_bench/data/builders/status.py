"""What is here: for each set where it is, what it came from, how it is stored, and when it was audited."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karst_bench.data.decode import encoding_of
from karst_bench.data.sources.layouts import find_lists
from karst_bench.data.sources.manifest import read_audit, read_manifest
from karst_bench.data.sources.parquet_places import local_folder
from karst_bench.data.sources.tfds import find_prepared
from karst_bench.errors import UserError

DatasetConfig = Mapping[str, Any]


@dataclass(frozen=True)
class SetStatus:
    """One copy of a set. source: the value of dataset.source that reads it, "" where there is no copy; home: where it is;
    origin: raw | zip | tfds | hf | unknown; encoding; audited: the time of the last audit, or ""; text: what else there
    is to say."""

    option: str
    source: str
    home: str = ""
    origin: str = ""
    encoding: str = ""
    audited: str = ""
    text: str = ""


def status(tasks: Mapping[str, DatasetConfig], root: Path | str) -> list[SetStatus]:
    """Every copy of each set under `root` (paths.data), or one line for a set that is not here. Nothing is read but notes.

    tasks: {option: configuration}.
    """
    lines = []
    for option, dataset in tasks.items():
        found = [line for look in _LOOKS if (line := look(option, dataset, Path(root))) is not None]
        lines += found or [SetStatus(option, "", text="not here")]
    return lines


def _folder(option: str, dataset: DatasetConfig, root: Path) -> SetStatus | None:
    try:
        home = find_lists(dataset, data_root=root)
    except UserError:
        return None
    try:
        manifest, audit = read_manifest(home), read_audit(home)
    except UserError as error:
        return SetStatus(option, "folder", str(home), "unknown", text=str(error))
    text = []
    if audit is not None and not audit.sound:
        more = f" and {len(audit.problems) - 1} more" if len(audit.problems) > 1 else ""
        text.append(f"the audit found {audit.problems[0]}{more}")
    if manifest is None:
        return SetStatus(
            option, "folder", str(home), "unknown", _look(home), audit.time if audit else "", "; ".join(text)
        )
    text += manifest.notes()
    when = audit.time if audit else ""
    return SetStatus(option, "folder", str(home), manifest.source, manifest.encoding, when, "; ".join(text))


def _look(home: Path) -> str:
    """The encoding of a folder from a few of its images."""
    some = sorted((home / "images" / "train800").glob("*"))[:4]
    return encoding_of(some) if some else ""


def _parquet(option: str, dataset: DatasetConfig, root: Path) -> SetStatus | None:
    home = local_folder(dataset, root) if dataset["suite"] == "vtab" else None
    return None if home is None else SetStatus(option, "hf", str(home), "hf")


def _tfds(option: str, dataset: DatasetConfig, root: Path) -> SetStatus | None:
    try:
        home = find_prepared(builder, root) if (builder := dataset.get("tfds", {}).get("builder")) else None
    except UserError:
        return None
    return None if home is None else SetStatus(option, "tfds", str(home), "tfds", "native")


_LOOKS: tuple[Callable[[str, DatasetConfig, Path], SetStatus | None], ...] = (_folder, _parquet, _tfds)
