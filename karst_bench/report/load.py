"""Records from disk to runs. No record is trusted: what is not right is left out, with one line that says so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from karst_bench.records import record as schema
from karst_bench.records.facts import Count
from karst_bench.records.record import RunRecord
from karst_bench.records.strict_json import RecordError, reason
from karst_bench.report.suite import DESCRIPTIVE, default_values, own_extra, run_label

PROTOCOLS = ("last", "peek10", "val", "best_val")
# A name that ends in tables, commands and file names.
PlainName = Annotated[str, Meta(pattern=r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.+/-]{0,79}\Z")]


class BadRecordError(ValueError):
    """Why a record cannot be shown; the text ends in one line of the report."""


class NamedNode(Struct, frozen=True):
    """A group of the configuration that may be absent."""

    name: PlainName = "none"


class ChosenNode(Struct, frozen=True):
    """config.backbone, config.protocol: groups that every record has."""

    name: PlainName


class MethodAbout(Struct, frozen=True):
    """config.method.about, as far as labels need it: the extra that the method brings by itself."""

    extra: PlainName | None = None


class MethodNode(Struct, frozen=True):
    """config.method."""

    name: PlainName
    about: MethodAbout | None = None


class TunedNode(Struct, frozen=True):
    """config.tuned: the kind of search, and the values it gave by dotted key."""

    name: PlainName = "none"
    values: dict[str, Any] | None = None


class DatasetNode(Struct, frozen=True):
    """config.dataset."""

    name: PlainName
    task: PlainName
    group: PlainName
    shots: Count | None = None
    split_seed: Count | None = None


class RecipeNode(Struct, frozen=True):
    """config.recipe, as far as footnotes tell it."""

    name: str = "?"
    epochs: Count = 0
    augment: str = "none"


class ReportedConfig(Struct, frozen=True):
    """What reports read of a record's configuration; whatever else it holds is not looked at."""

    seed: Count
    suite: PlainName
    method: MethodNode
    backbone: ChosenNode
    protocol: ChosenNode
    dataset: DatasetNode
    recipe: RecipeNode = RecipeNode()
    extra: NamedNode = NamedNode()
    also: NamedNode = NamedNode()
    regularizer: NamedNode = NamedNode()
    tuned: TunedNode = TunedNode()
    precision: str = "?"
    normalization: str = "?"


def printable(text: str, limit: int = 160) -> str:
    """Text from outside made safe for one line of a terminal: ASCII, no control characters, bounded."""
    clean = "".join(c if c.isprintable() and c.isascii() else "?" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


@dataclass(frozen=True)
class Run:
    """One finished run, flat. Accuracies in per cent; `setting` holds what must be equal within a row but the seed."""

    id: str
    method: str
    backbone: str
    dataset: str
    task: str
    group: str
    seed: int
    protocol: str
    tuned: str
    shots: int | None
    split_seed: int | None
    last: float | None
    peak: float | None
    test_images: int
    params: int
    step_ms: float | None
    peak_bytes: float | None
    created: str
    machine: str
    hyper: dict[str, Any] = field(hash=False)
    deviations: tuple[str, ...] = ()
    setting: tuple[tuple[str, str], ...] = ()
    data_version: tuple[str, ...] = ()
    provenance_key: tuple[tuple[str, str], ...] = ()


def load_runs(folder: Path, suite: str) -> tuple[list[Run], list[str]]:
    """All valid finished runs under `folder` (…/runs/<suite>), sorted by id, and a line for every file left out.

    A run of the other suite in this folder, a second file with the same id and a symbolic link out of it are left out.
    """
    runs: dict[str, Run] = {}
    left_out: list[str] = []
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        try:
            run = read_run(path, suite)
            if run.id in runs:
                raise BadRecordError(f"duplicate of record {run.id}")
            runs[run.id] = run
        except BadRecordError as error:
            left_out.append(f"{printable(path.relative_to(folder).as_posix())}: {printable(str(error))}")
    return [runs[key] for key in sorted(runs)], left_out


def read_run(path: Path, suite: str) -> Run:
    """One file as a Run. Raises: BadRecordError with the reason, for whatever the file holds."""
    try:
        record = schema.load(path)
    except RecordError as error:
        raise BadRecordError(str(error).removeprefix(f"{path.name}: ")) from error
    return flatten(record, suite)


def flatten(record: RunRecord, suite: str) -> Run:
    """A checked record as a Run. Raises: BadRecordError naming the field."""
    try:
        config = msgspec.convert(record.config, ReportedConfig)
    except msgspec.ValidationError as error:
        raise BadRecordError(f"config.{reason(error, record.config)}") from None
    dataset, metrics = config.dataset, record.metrics
    _check(record, config, suite)
    few_shot = dataset.group == "fewshot"
    return Run(
        id=record.id, method=method_label(config), backbone=config.backbone.name, dataset=dataset.name,
        task=dataset.task, group=dataset.group, seed=config.seed, protocol=config.protocol.name,
        tuned=config.tuned.name, shots=dataset.shots if few_shot else None,
        split_seed=(dataset.split_seed or 0) if few_shot else None, last=metrics.test_top1_last_pct,
        peak=metrics.test_top1_peak_pct if config.protocol.name == "peek10" else None,
        test_images=metrics.test_n or 0, params=record.counts.trainable_params,
        step_ms=record.speed.step_ms_median or None, peak_bytes=record.peak_bytes or None,
        created=record.created, machine=machine(record), hyper=hyper(record.config),
        deviations=deviations(record, config), setting=setting(record, config), data_version=data_version(record),
        provenance_key=provenance_key(record, config),
    )  # fmt: skip


def _check(record: RunRecord, config: ReportedConfig, suite: str) -> None:
    dataset, protocol, metrics = config.dataset, config.protocol.name, record.metrics
    if config.suite != suite:
        raise BadRecordError(f"belongs to suite {config.suite}, not {suite}")
    if protocol not in PROTOCOLS:
        raise BadRecordError(f"unknown protocol {protocol!r}, this report knows {', '.join(PROTOCOLS)}")
    if protocol != "val" and (metrics.test_top1_last_pct is None or not metrics.test_n):
        raise BadRecordError(f"protocol {protocol} without test accuracy or test_n")
    if dataset.group == "fewshot" and not dataset.shots:
        raise BadRecordError("a few-shot record without config.dataset.shots")


def data_version(record: RunRecord) -> tuple[str, ...]:
    """What tells two versions of one dataset apart: the lists' hash and the encoding."""
    return printable(record.data.list_sha256, 80), printable(record.data.encoding, 80)


def machine(record: RunRecord) -> str:
    """Device and threads: times and memory compare on one machine only."""
    stood = record.provenance
    device = stood.cpu_model or "cpu" if stood.device == "cpu" else stood.device or "?"
    return printable(f"{device}, {stood.threads or 0} threads", 60)


def method_label(config: ReportedConfig) -> str:
    """config.method.name, with +extra where it is not the method's own, +also and +regularizer."""
    method, about = config.method.name, config.method.about
    own = own_extra(method) if about is None else about.extra or "none"
    label, regularizer = run_label(method, config.extra.name, config.also.name, own), config.regularizer.name
    return label if regularizer == "none" else f"{label}+{regularizer}"


def hyper(config: Mapping[str, Any]) -> dict[str, Any]:
    """The method's hyper-parameters: all of its node but class path and texts."""
    node = config["method"]
    return {key: node[key] for key in sorted(node) if key not in DESCRIPTIVE}


def deviations(record: RunRecord, config: ReportedConfig) -> tuple[str, ...]:
    """`key=value` of the hyper-parameters that are not those of the method's file; tuned ones aside."""
    found, default, tuned = hyper(record.config), default_values(config.method.name), config.tuned.values or {}
    differing = [key for key in default if key in found and found[key] != default[key] and f"method.{key}" not in tuned]
    return tuple(f"{printable(key, 60)}={command_value(found[key])}" for key in differing)


def command_value(value: Any) -> str:
    """A value as it would be typed on the command line, bounded."""
    return printable(json.dumps(value, sort_keys=True, separators=(",", ":")).strip('"'), 60)


def setting(record: RunRecord, config: ReportedConfig) -> tuple[tuple[str, str], ...]:
    """What must agree for runs to be seeds of one row; values tuned per task and peek10 beside last do not split."""
    parts: dict[str, Any] = {
        "precision": config.precision,
        "normalization": config.normalization,
        "protocol": "last" if config.protocol.name in ("last", "peek10") else config.protocol.name,
        "weights": (record.weights.sha256 or "none")[:12],
        "recipe": config.recipe.name,
    }
    if config.tuned.name == "none":
        parts |= {f"method.{key}": value for key, value in hyper(record.config).items()}
        for node in ("recipe", "extra", "also", *(["regularizer"] if config.regularizer.name != "none" else [])):
            values = record.config.get(node, {})
            parts |= {f"{node}.{key}": values[key] for key in values if key == "name" or key not in DESCRIPTIVE}
    return tuple(sorted((printable(key, 60), command_value(value)) for key, value in parts.items()))


def recipe_text(recipe: RecipeNode) -> str:
    """The recipe with what a trial run most often changes: `petl100 (100 epochs)`, `mini (1 epoch, augment fs_dtl)`."""
    length = f"{recipe.epochs} epoch{'s' if recipe.epochs != 1 else ''}"
    changed = f", augment {recipe.augment}" if recipe.augment != "none" else ""
    return f"{recipe.name} ({length}{changed})"


def provenance_key(record: RunRecord, config: ReportedConfig) -> tuple[tuple[str, str], ...]:
    """What a footnote says a number stands on."""
    weights, code = record.weights, record.provenance
    commit = (code.commit or "?")[:12] + ("+" if code.dirty else "")
    parts = {
        "tuned": config.tuned.name,
        "recipe": recipe_text(config.recipe),
        "protocol": config.protocol.name,
        "normalization": config.normalization,
        "encoding": record.data.encoding,
        "precision": config.precision,
        "weights": f"{weights.timm_name or 'none'} {(weights.sha256 or 'none')[:12]}",
        "code": f"{code.version or ''} {commit}".strip(),
    }
    if record.data.own_split:
        parts["split"] = "own split"
    return tuple((key, printable(str(value), 60)) for key, value in parts.items())
