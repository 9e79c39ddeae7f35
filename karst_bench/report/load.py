"""Records from disk to runs. No record is trusted: what is not right is left out, with one line that says so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from karst_bench.records import record as schema
from karst_bench.records.record import RecordError
from karst_bench.report import catalog
from karst_bench.report.fields import BadRecordError, count, may, name, need, positive, printable

PROTOCOLS = ("last", "peek10", "val", "best_val")


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
    if record["status"] != "done":
        raise BadRecordError(f"status {record['status']!r}, expected 'done'")
    return flatten(record, record["id"], suite)


def accuracy(record: Mapping[str, Any], key: str) -> float | None:
    """A top-1 accuracy in [0, 100] (the schema has checked it), or None."""
    value = record["metrics"].get(key)
    return None if value is None else float(value)


def flatten(record: dict[str, Any], identifier: str, suite: str) -> Run:
    """A checked record as a Run. Raises: BadRecordError naming the field."""
    for part in ("config", "metrics", "counts", "data", "provenance"):
        need(record, part, dict)
    found_suite, dataset = name(record, "config.suite"), name(record, "config.dataset.name")
    if found_suite != suite:
        raise BadRecordError(f"belongs to suite {found_suite}, not {suite}")
    group, task = name(record, "config.dataset.group"), name(record, "config.dataset.task")
    if group not in (*catalog.GROUPS, "fewshot"):
        raise BadRecordError(f"config.dataset.group is {group!r}, expected one of {', '.join(catalog.GROUPS)}, fewshot")
    protocol = name(record, "config.protocol.name")
    if protocol not in PROTOCOLS:
        raise BadRecordError(f"unknown protocol {protocol!r}, this report knows {', '.join(PROTOCOLS)}")
    last = accuracy(record, "test_top1_last_pct")
    if protocol != "val" and (last is None or not count(record, "metrics.test_n")):
        raise BadRecordError(f"protocol {protocol} without test accuracy or test_n")
    shots, split_seed = (may(record, f"config.dataset.{key}", int) for key in ("shots", "split_seed"))
    if group == "fewshot" and not shots:
        raise BadRecordError("a few-shot record without config.dataset.shots")
    return Run(
        id=identifier, method=method_label(record), backbone=name(record, "config.backbone.name"), dataset=dataset,
        task=task, group=group, seed=count(record, "config.seed"), protocol=protocol,
        tuned=name(record, "config.tuned.name", "none"), shots=shots if group == "fewshot" else None,
        split_seed=(split_seed or 0) if group == "fewshot" else None, last=last,
        peak=accuracy(record, "test_top1_peak_pct") if protocol == "peek10" else None,
        test_images=int(may(record, "metrics.test_n", int, 0)), params=count(record, "counts.trainable_params"),
        step_ms=positive(record, "speed.step_ms_median"), peak_bytes=positive(record, "peak_bytes"),
        created=str(may(record, "created", str, "")), machine=machine(record),
        hyper=hyper(record["config"]), setting=setting(record),
        data_version=(name(record, "data.list_sha256"), name(record, "data.encoding")), provenance_key=provenance_key(record),
    )  # fmt: skip


def machine(record: Mapping[str, Any]) -> str:
    """Device and threads: times and memory compare on one machine only."""
    device, threads = may(record, "provenance.device", str, "?"), may(record, "provenance.threads", int, 0)
    if device == "cpu":
        device = may(record, "provenance.cpu_model", str, device)
    return printable(f"{device}, {threads} threads", 60)


def method_label(record: Mapping[str, Any]) -> str:
    """config.method.name, with +extra where it is not the method's own, and +also."""
    label = name(record, "config.method.name")
    extra, also = name(record, "config.extra.name", "none"), name(record, "config.also.name", "none")
    if extra != catalog.OWN_EXTRA.get(label, "none"):
        label += f"+{extra}"
    return label + (f"+{also}" if also != "none" else "")


def hyper(config: Mapping[str, Any]) -> dict[str, Any]:
    """The method's hyper-parameters: all of its node but class path and texts."""
    node = need(config, "method", dict)
    return {key: node[key] for key in sorted(node) if key not in ("_target_", "name", "about", "label", "paper")}


def plain(value: Any) -> str:
    """A value as it would be typed on the command line, bounded."""
    return printable(json.dumps(value, sort_keys=True, separators=(",", ":")).strip('"'), 60)


def setting(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What must agree for runs to be seeds of one row; values tuned per task and peek10 beside last do not split."""
    config = record["config"]
    tuned = may(config, "tuned.name", str, "none") != "none"
    parts: dict[str, Any] = {
        "precision": may(config, "precision", str, "?"),
        "normalization": may(config, "normalization", str, "?"),
        "protocol": "last" if config["protocol"]["name"] in ("last", "peek10") else config["protocol"]["name"],
        "weights": str(may(record, "weights.sha256", str, "none"))[:12],
        "recipe": may(config, "recipe.name", str, "?"),
    }
    if not tuned:
        parts |= {f"method.{key}": value for key, value in hyper(config).items()}
        for node in ("recipe", "extra", "also"):
            values = may(config, node, dict, {})
            parts |= {f"{node}.{key}": values[key] for key in values if key not in ("_target_", "about", "label", "paper")}
    return tuple(sorted((printable(key, 60), plain(value)) for key, value in parts.items()))


def recipe_text(config: Mapping[str, Any]) -> str:
    """The recipe with what a trial run most often changes: `petl100 (100 epochs)`, `mini (1 epoch, augment fs_dtl)`."""
    augment = may(config, "recipe.augment", str, "none")
    epochs = may(config, "recipe.epochs", int, 0)
    length = f"{epochs} epoch{'s' if epochs != 1 else ''}"
    changed = f", augment {augment}" if augment != "none" else ""
    return f"{may(config, 'recipe.name', str, '?')} ({length}{changed})"


def provenance_key(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a footnote says a number stands on."""
    config = record["config"]
    weights = may(record, "weights.sha256", str, "none")
    commit = may(record, "provenance.commit", str, "?")[:12] + ("+" if record["provenance"].get("dirty") else "")
    parts = {
        "tuned": may(config, "tuned.name", str, "none"),
        "recipe": recipe_text(config),
        "protocol": config["protocol"]["name"],
        "normalization": may(config, "normalization", str, "?"),
        "encoding": may(record, "data.encoding", str, "?"),
        "precision": may(config, "precision", str, "?"),
        "weights": f"{may(record, 'weights.timm_name', str, 'none')} {weights[:12]}",
        "code": f"{may(record, 'provenance.version', str, '')} {commit}".strip(),
    }
    if record["data"].get("own_split"):
        parts["split"] = "own split"
    return tuple((key, printable(str(value), 60)) for key, value in parts.items())
