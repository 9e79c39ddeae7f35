"""Scoring finished runs again from what they said of every image, with neither torch nor a network."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from karst_bench import files
from karst_bench.data.sources.labels import listed_labels
from karst_bench.errors import UserError
from karst_bench.records import record as schema
from karst_bench.records.agreement import check_agreement
from karst_bench.records.predictions import REPORTED, Predictions, read_predictions
from karst_bench.records.record import RunRecord
from karst_bench.records.strict_json import RecordError

Labels = np.ndarray[Any, Any]


@dataclass
class Checked:
    """What was found: a line for each difference; how many records there are, how many were scored again, how many of those
    against labels from elsewhere than their own file, how many hold no predictions; images."""

    differences: list[str] = field(default_factory=list)
    records: int = 0
    scored: int = 0
    listed: int = 0
    bare: int = 0
    images: int = 0

    @property
    def text(self) -> str:
        """The lines, and what they cover."""
        summary = (
            f"{self.records} records: {self.scored} scored again from {self.images:,} predictions, {self.listed} of them against "
            f"labels that are not their own; {self.bare} without predictions, whose numbers were held against each other alone; "
            f"{len(self.differences)} differences"
        )
        return "\n".join([*self.differences, summary])


def check_runs(place: Path, *, data: Path | None = None) -> Checked:
    """Every record below a results folder, or in a folder of records, against its predictions and their labels.

    data: paths.data, whose lists say the labels; without it those of folder sets are held against each other where two
    records share their lists. Raises: UserError where there is no record.
    """
    paths = _record_files(place)
    if not paths:
        raise UserError(f"{place}: no records there; give a results folder, or one with <id>.json files of finished runs")
    found = Checked(records=len(paths))
    shared: dict[tuple[str, str], tuple[str, Labels]] = {}
    for path in paths:
        try:
            record = schema.load(path)
            check_agreement(record)
            if record.predictions is None:
                found.bare += 1
                continue
            predictions = _read(record, path)
            found.scored += 1
            found.images += len(predictions)
            known = _known_labels(record, predictions.split, data)
            found.listed += known is not None
            found.differences += [f"{path.name}: {line}" for line in _differences(record, predictions, known)]
            found.differences += [f"{path.name}: {line}" for line in _unlike_others(record, predictions, shared)]
        except UserError as error:
            text = str(error)
            found.differences.append(text if text.startswith(path.name) else f"{path.name}: {text}")
    return found


def _record_files(place: Path) -> list[Path]:
    runs = place / "runs" if (place / "runs").is_dir() else place
    folders = [runs, *(folder for folder in sorted(runs.iterdir()) if folder.is_dir())] if runs.is_dir() else []
    return [path for folder in folders for path in sorted(folder.glob("*.json")) if schema.ID.fullmatch(path.stem)]


def _read(record: RunRecord, path: Path) -> Predictions:
    """The predictions of a record, the very ones that it was written with. Raises: RecordError."""
    assert record.predictions is not None
    roots = [path.parents[level] for level in range(min(3, len(path.parents)))]
    file = next((root / record.predictions for root in reversed(roots) if (root / record.predictions).is_file()), None)
    if file is None:
        raise RecordError(f"its predictions ({record.predictions}) are not there")
    sha256 = files.sha256(file)
    if sha256 != record.predictions_sha256:
        raise RecordError(f"{file.name} has the SHA-256 {sha256[:16]}..., the record says {str(record.predictions_sha256)[:16]}...")
    return read_predictions(file)


def _differences(record: RunRecord, found: Predictions, known: Labels | None) -> Iterator[str]:
    """What does not agree, a line each."""
    for key, ours, theirs in (("id", found.id, record.id), ("list_sha256", found.list_sha256, record.data.list_sha256)):
        if ours != theirs:
            yield f"its predictions are of {key} {ours[:60] or 'none'}, the record of {theirs}"
    classes = int(record.config["dataset"].get("classes") or 2**16)
    for name in ("top1", "label"):
        highest = int(getattr(found, name).max())
        if highest >= classes:
            yield f"a {name} of {highest} lies outside 0..{classes - 1}"
    lowest, highest_p = float(found.probability.min()), float(found.probability.max())
    if not 1 / classes - 1e-3 <= lowest <= highest_p <= 1:
        yield f"probabilities of top-1 from {lowest:.4f} to {highest_p:.4f}; they lie between 1/{classes} and 1"
    if known is not None and not np.array_equal(found.label, known):
        yield _label_difference(found.label, known, "the list's")
    yield from _accuracy_difference(record, found)


def _accuracy_difference(record: RunRecord, found: Predictions) -> Iterator[str]:
    kind = REPORTED.get(found.split)
    if kind is None:
        yield f"its predictions are of a split {found.split[:40]!r}, which no run reports"
        return
    n, pct = getattr(record.metrics, f"{kind}_n"), getattr(record.metrics, f"{kind}_top1_last_pct")
    if n != len(found):
        yield f"it says {n} images of {kind}, its predictions are {len(found)}"
    if pct is None or abs(pct - found.top1_pct) > 1e-9:
        yield f"it says {kind} top-1 {pct} %, its predictions give {found.top1_pct} %"


def _unlike_others(record: RunRecord, found: Predictions, shared: dict[tuple[str, str], tuple[str, Labels]]) -> Iterator[str]:
    """Two runs on the same lists have the same labels."""
    key = (record.data.list_sha256, found.split)
    other, labels = shared.setdefault(key, (record.id, found.label))
    if not np.array_equal(labels, found.label):
        yield _label_difference(found.label, labels, f"those of {other}, which has the same lists")


def _label_difference(labels: Labels, known: Labels, whose: str) -> str:
    if len(labels) != len(known):
        return f"{len(labels)} labels, {whose} are {len(known)}"
    where = np.flatnonzero(labels != known)
    return f"{len(where)} labels are not {whose}, the first at image {where[0]}: {labels[where[0]]}, not {known[where[0]]}"


def _known_labels(record: RunRecord, split: str, data: Path | None) -> Labels | None:
    """The labels from elsewhere: of an embedded task by its rule, of a folder set from the lists below `data`.

    Raises: UserError where the lists are others than the run's.
    """
    dataset = record.config["dataset"]
    if dataset.get("source") == "mini":
        n = (dataset.get("sizes") or {}).get(split)
        return None if n is None else np.arange(int(n)) % int(dataset["classes"])  # data/mini: image i has label i mod classes
    if dataset.get("source") != "folder" or data is None:
        return None
    sha256, labels = listed_labels(dataset, split, data_root=data)
    if sha256 != record.data.list_sha256:
        raise RecordError(f"the lists below {data} have the hash {sha256[:16]}..., the run's {record.data.list_sha256[:16]}...")
    return None if labels is None else np.array(labels)
