"""Records from disk to runs. No record is trusted: what is not right is left out, with one line that says so."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from karst_bench.config.protocols import protocol_differs
from karst_bench.names import PLAIN, printable
from karst_bench.records import record as schema
from karst_bench.records.agreement import check_agreement
from karst_bench.records.facts import Count
from karst_bench.records.identity import without_later
from karst_bench.records.record import RunRecord
from karst_bench.records.strict_json import RecordError, reason
from karst_bench.report.experiment import Facts, dataset_file, experiment_of, known_options
from karst_bench.report.suite import own_extra, run_label

DESCRIPTIVE = ("_target_", "name", "about", "label", "paper")  # keys of a method that are no hyper-parameters

MEASURED = attrgetter("last", "peak", "val", "test_images", "val_images", "params")  # what two files of one run must agree on
# A name that ends in tables, commands and file names.
PlainName = Annotated[str, Meta(pattern=PLAIN)]


class BadRecordError(ValueError):
    """Why a record cannot be shown; the text ends in one line of the report."""


class NamedNode(Struct, frozen=True):
    """A group of the configuration that may be absent."""

    name: PlainName = "none"


class ChosenNode(Struct, frozen=True):
    """config.backbone: a group that every record has."""

    name: PlainName


class ProtocolNode(Struct, frozen=True):
    """config.protocol: what was trained on, looked at, and reported."""

    name: PlainName
    train: str
    final: str
    checks: str | None = None


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
    listed: bool = True


class DatasetNode(Struct, frozen=True):
    """config.dataset."""

    name: PlainName
    task: PlainName
    group: PlainName
    suite: PlainName = "vtab"
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
    protocol: ProtocolNode
    dataset: DatasetNode
    recipe: RecipeNode = RecipeNode()
    extra: NamedNode = NamedNode()
    also: NamedNode = NamedNode()
    regularizer: NamedNode = NamedNode()
    tuned: TunedNode = TunedNode()
    precision: str = "?"
    normalization: str = "?"


@dataclass(frozen=True)
class Run:
    """One finished run, flat. Accuracies in per cent; setting, case: what a row, and a cell of it, has in common."""

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
    listed: bool = True  # whether a tuned table had values for the dataset
    deviations: tuple[str, ...] = ()
    setting: Facts = ()
    case: Facts = ()
    digested: bool = True
    provenance_key: tuple[tuple[str, str], ...] = ()
    commit: str = ""
    origin: str = "own"
    val: float | None = None
    val_images: int = 0
    suite: str = "vtab"  # of its dataset
    file: str = ""  # below the folder that was read
    record: RunRecord | None = field(default=None, compare=False, repr=False)

    @property
    def repeat(self) -> int:
        """One number for split seed and seed: what two runs of one cell differ by."""
        return (self.split_seed or 0) * 1_000_000 + self.seed


def load_folders(folders: Mapping[str, Path], suite: str) -> tuple[list[Run], list[str]]:
    """`load_runs` of each folder, by origin; a line left out begins with the origin where there are several."""
    runs: list[Run] = []
    left_out: list[str] = []
    for origin, folder in folders.items():
        found, lines = load_runs(folder, suite, origin)
        runs += found
        left_out += [f"{origin}/{line}" for line in lines] if len(folders) > 1 else lines
    return runs, left_out


def load_runs(folder: Path, suite: str, origin: str = "own") -> tuple[list[Run], list[str]]:
    """All valid finished runs under `folder` (…/runs/<suite>), sorted by id, and a line for every file left out.

    A run of the other suite in this folder, a second file with the same id and a symbolic link out of it are left out; where two
    files of one id say different things, both are: the order of their names cannot say which is the run.
    """
    runs: dict[str, Run] = {}
    disputed: dict[str, str] = {}  # id: the files that say different things of it
    left_out: list[str] = []
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise BadRecordError("a link to a file outside this folder")
            run = replace(read_run(path, suite), origin=origin, file=path.relative_to(folder).as_posix())
            first = runs.setdefault(run.id, run)
            if MEASURED(first) != MEASURED(run):
                disputed[run.id] = f"{disputed.get(run.id, first.file)} and {run.file}"
            elif first is not run:
                raise BadRecordError(f"duplicate of record {run.id}")
        except BadRecordError as error:
            left_out.append(f"{printable(path.relative_to(folder).as_posix())}: {printable(str(error))}")
    for key, named in sorted(disputed.items()):
        del runs[key]
        left_out.append(f"record {key}: {printable(named)} say different things of it; none of them counts")
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
    found = experiment_of(record)
    return Run(
        id=record.id, method=method_label(config), backbone=config.backbone.name, dataset=dataset.name,
        task=dataset.task, group=dataset.group, seed=config.seed, protocol=config.protocol.name,
        tuned=config.tuned.name, shots=dataset.shots,
        split_seed=(dataset.split_seed or 0) if dataset.shots is not None else dataset.split_seed,
        last=None if config.protocol.final == "val" else metrics.test_top1_last_pct,
        peak=record.test_peak_pct if config.protocol.name == "peek10" else None,
        test_images=metrics.test_n or 0, params=record.counts.trainable_params,
        step_ms=record.speed.step_ms_median or None, peak_bytes=record.peak_bytes or None,
        created=record.created, machine=machine(record), hyper=hyper(record.config),
        listed=config.tuned.listed, deviations=found.deviations, setting=found.setting, case=found.case,
        digested=not record.undigested, commit=record.provenance.commit or "", val_images=metrics.val_n or 0,
        suite=dataset.suite,
        val=metrics.val_top1_best_pct if metrics.val_top1_last_pct is None else metrics.val_top1_last_pct,
        provenance_key=provenance_key(record, config, found.deviations), record=record,
    )  # fmt: skip


def _check(record: RunRecord, config: ReportedConfig, suite: str) -> None:
    dataset, protocol, metrics = config.dataset, config.protocol, record.metrics
    if config.suite != suite:
        raise BadRecordError(f"belongs to suite {config.suite}, not {suite}")
    if odd := protocol_differs(record.config["protocol"]):
        raise BadRecordError(f"{odd}: other fields need another name")
    if protocol.final != "val" and (metrics.test_top1_last_pct is None or not metrics.test_n):
        raise BadRecordError(f"protocol {protocol.name} without test accuracy or test_n")
    if dataset.group == "fewshot" and not dataset.shots:
        raise BadRecordError("a few-shot record without config.dataset.shots")
    if dataset.name in known_options("dataset"):
        file = dataset_file(dataset.name)
        said, own = (dataset.task, dataset.group), (file["task"], file["group"])
        if said != own:
            raise BadRecordError(f"says task and group {' '.join(said)}, but {dataset.name} is {' '.join(own)}")
    try:
        check_agreement(record)
    except RecordError as error:
        raise BadRecordError(str(error)) from None


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
    node = without_later("method", config["method"])
    return {key: node[key] for key in sorted(node) if key not in DESCRIPTIVE}


def recipe_text(recipe: RecipeNode) -> str:
    """The recipe with what a trial run most often changes: `petl100 (100 epochs)`, `mini (1 epoch, augment fs_dtl)`."""
    length = f"{recipe.epochs} epoch{'s' if recipe.epochs != 1 else ''}"
    changed = f", augment {recipe.augment}" if recipe.augment != "none" else ""
    return f"{recipe.name} ({length}{changed})"


def provenance_key(record: RunRecord, config: ReportedConfig, differing: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
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
    libraries = {name: version for name, version in code.packages.items() if name in ("torch", "timm")}
    parts["with"] = ", ".join([*(f"{name} {libraries[name]}" for name in sorted(libraries)), machine(record)])
    if record.data.own_split:
        parts["split"] = "own split"
    if differing:
        parts["other than the default"] = "; ".join(differing)
    return tuple((key, printable(str(value), 400 if key.startswith("other") else 90)) for key, value in parts.items())
