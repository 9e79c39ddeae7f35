"""Where the parquet files of a set are: a local folder, the Hugging Face cache, or the hub; and at which revision."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from karst_bench.errors import UserError

log = logging.getLogger(__name__)
LOCAL = ("parquet", "hf", "")
PATTERNS = ["*.parquet", "README.md"]


@dataclass(frozen=True)
class Snapshot:
    """A folder of parquet files. repository and revision: where it came from ("" where it is a local folder), the
    revision being the commit that was read; image, label: its columns; pinned: that commit was asked for by its hash."""

    folder: Path
    repository: str
    revision: str
    image: str
    label: str
    pinned: bool = False

    def origin(self) -> str:
        """A line for the record."""
        if not self.repository:
            return "parquet: a local folder"
        return f"parquet: {self.repository} at revision {self.revision}{'' if self.pinned else ', not pinned'}"


@cache
def repositories() -> dict[str, list[dict[str, str]]]:
    """{task: its known copies on the hub, best first}: repository, columns, revision where one was seen."""
    text = files("karst_bench.data.sources").joinpath("parquet_repositories.yaml").read_text(encoding="utf-8")
    found: dict[str, list[dict[str, str]]] = yaml.safe_load(text)
    return found


def find_snapshot(dataset: Mapping[str, Any], data_root: Path) -> Snapshot:
    """The files of a VTAB dataset: <data_root>/{parquet,hf}/<set>/, else the cache of the hub, else the hub itself.

    dataset.hf (repository, revision, image, label; all optional) goes before the known copies. A copy without a
    revision is read at the commit that the cache has, else at the newest, which is then said.
    Raises: UserError with every place looked at and the remedy.
    """
    if dataset["suite"] != "vtab":
        raise UserError(f"dataset={dataset['name']}: dataset.source=hf is for vtab sets; use folder")
    wish = dict(dataset.get("hf") or {})
    copies = _copies(dataset, wish)
    local = local_folder(dataset, data_root)
    if local is not None:
        return _snapshot(local, {"image": "", "label": ""} | wish, repository="", revision="")
    reasons = []
    for entry in copies:
        try:
            folder = _from_hub(entry["repository"], entry.get("revision"))
        except UserError as error:
            reasons.append(str(error))
            continue
        found = _snapshot(folder, entry, repository=entry["repository"], revision=folder.name)
        if not found.pinned:
            log.info("%s: %s; +dataset.hf.revision=%s keeps it", dataset["name"], found.origin(), found.revision)
        return found
    tried = ", ".join(entry["repository"] for entry in copies) or "no known copy"
    raise UserError(
        f"dataset={dataset['name']}: no parquet files in {', '.join(str(data_root / place) for place in LOCAL[:2])} under"
        f" {dataset['folder']}, and none from the hub ({tried}): {' '.join(reasons) or 'nothing to ask for'} Write them"
        f" with `karst-bench data prepare tasks={dataset['task']} source=raw root={data_root} to=hf`, or name a copy with"
        " +dataset.hf.repository=OWNER/NAME."
    )


def _copies(dataset: Mapping[str, Any], wish: Mapping[str, str]) -> list[dict[str, str]]:
    """What to ask the hub for, best first. A revision that is wished for belongs to one repository: to the best copy."""
    unknown = set(wish) - {"repository", "revision", "image", "label"}
    if unknown:
        raise UserError(
            f"dataset.hf.{min(unknown)}: no such setting; choose from repository, revision, image and label"
        )
    if "repository" in wish:
        return [dict(wish)]
    known = repositories().get(dataset["task"], [])
    return [entry | dict(wish) for entry in (known[:1] if "revision" in wish else known)]


def local_folder(dataset: Mapping[str, Any], data_root: Path) -> Path | None:
    """A folder of parquet files of a set under `data_root`, by one of its names or a known copy's; None if there is none."""
    copies = [str(entry["repository"]) for entry in repositories().get(dataset["task"], [])]
    names = [dataset["folder"], *dataset.get("aliases", ()), dataset["task"], *copies]
    for place in LOCAL:
        for name in dict.fromkeys([*names, *(copy.rpartition("/")[2] for copy in copies)]):
            folder: Path = data_root / place / name
            if folder.is_dir() and next(folder.rglob("*.parquet"), None) is not None:
                return folder
    return None


def _snapshot(folder: Path, entry: Mapping[str, str], *, repository: str, revision: str) -> Snapshot:
    image, label = entry.get("image"), entry.get("label")
    if not image or not label:
        image, label = _columns(folder)
    pinned = bool(revision) and entry.get("revision") == revision
    return Snapshot(folder, repository, revision, image, label, pinned)


def _columns(folder: Path) -> tuple[str, str]:
    """The two columns of either layout, by what the first file has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = min(folder.rglob("*.parquet"))
    try:
        names = set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: no readable parquet file ({error}); fetch it again") from error
    return (
        ("webp", "cls")
        if {"webp", "cls"} <= names
        else ("jpg", "cls")
        if {"jpg", "cls"} <= names
        else ("image", "label")
    )


def _from_hub(repository: str, revision: str | None) -> Path:
    """The snapshot's folder, whose name is the commit: from the cache, else fetched. Raises: UserError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    fetch = partial(snapshot_download, repository, repo_type="dataset", revision=revision, allow_patterns=PATTERNS)
    try:
        return Path(fetch(local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        log.info("fetching the parquet files of %s from the hub", repository)
    try:
        return Path(fetch())
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"{repository}: {str(error).splitlines()[0] if str(error) else type(error).__name__}."
        ) from error
