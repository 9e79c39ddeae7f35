"""The records of a report in little room: what many of them share (configuration groups, machine, weights) stands once."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec

from karst_bench.config.option_files import all_defaults
from karst_bench.report.experiment import known_options
from karst_bench.report.load import Run
from karst_bench.report.page.text import plain
from karst_bench.report.suite import own_extra

GROUPS = (
    "backbone",
    "dataset",
    "extra",
    "method",
    "protocol",
    "recipe",
    "tuned",
)  # vary from run to run; the rest hardly
OWN = (
    "adapter",
    "adapter_sha256",
    "artefact",
    "artefact_sha256",
    "created",
    "metrics",
    "peak_bytes",
    "seconds",
    "speed",
)
SHARED = ("counts", "data", "notes", "provenance", "weights")
CURVE_DIGITS = 4


@dataclass
class Pool:
    """Values by number, each once, in the order of their first use, as the page shows them."""

    values: list[object] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)

    def number(self, value: object) -> int:
        """The number of an equal value, a new one for a new value."""
        key = msgspec.json.encode(value, order="deterministic")
        if key not in self.numbers:
            self.numbers[key] = len(self.values)
            self.values.append(plain(value))
        return self.numbers[key]


def records_data(runs: Sequence[Run], folders: Mapping[str, Path], page: Path) -> dict[str, object]:
    """pool and runs: whatever a record's page shows; `file` is the path of its JSON from the page's folder."""
    pool = Pool()
    where = {origin: Path(os.path.relpath(folder, page)).as_posix() for origin, folder in folders.items()}
    return {"runs": [_run_data(run, where.get(run.origin, ""), pool) for run in runs], "pool": pool.values}


def _run_data(run: Run, folder: str, pool: Pool) -> dict[str, object]:
    assert run.record is not None
    record = msgspec.to_builtins(run.record)
    config = record["config"]
    rest = {key: value for key, value in config.items() if key not in (*GROUPS, "seed", "paths")}
    curves = record.get("curves") or {}
    found: dict[str, object] = {
        "id": run.id, "m": run.method, "b": run.backbone, "t": run.dataset, "s": run.seed, "p": run.protocol, "u": run.tuned,
        "f": f"{folder}/{run.file}", "o": run.origin, "shots": run.shots, "split": run.split_seed, "last": run.last,
        "peak": run.peak, "dev": list(run.deviations), "cmd": command(run), "digest": run.digested,
        "config": [pool.number(rest), *(pool.number(config.get(key)) for key in GROUPS)],
        "own": {key: record[key] for key in OWN if key in record},
        "shared": [pool.number(record.get(key)) for key in SHARED],
        "x": [pool.number(curves.get(key, [])) for key in ("epoch", "lr")],
        "loss": plain(curves.get("train_loss", ()), CURVE_DIGITS), "acc": plain(curves.get("train_top1_pct", ()), CURVE_DIGITS),
        "checks": [[check["epoch"], check["split"], check["top1_pct"]] for check in curves.get("checks", ())],
    }  # fmt: skip
    return {key: plain(value) for key, value in found.items() if value not in (None, [], "")}


def command(run: Run) -> str:
    """The command that makes the run again; "" where a value of its is not known in full, or has no key that could be typed."""
    assert run.record is not None
    config = run.record.config
    named = {"method": config["method"]["name"], "dataset": run.dataset, "backbone": run.backbone}
    if any(name not in known_options(group) for group, name in named.items()):
        return ""  # pictures or a backbone of one's own: where they lie, or what else was said of them, is not in the record
    words = [f"method={named['method']}"]
    chosen = {"extra": own_extra(config["method"]["name"]), "also": "none", "regularizer": "none", "tuned": "none"}
    for group, usual in chosen.items():
        name = (config.get(group) or {}).get("name", "none")
        words += [f"{group}={name}"] if name != usual else []
    words += [f"dataset={run.dataset}", f"backbone={run.backbone}"]
    words += [] if run.shots is None else [f"dataset.shots={run.shots}", f"dataset.split_seed={run.split_seed or 0}"]
    words += [f"protocol={run.protocol}"] if run.protocol != _usual_protocol(run.dataset) else []
    typed = [_word(item, run) for item in run.deviations if not item.startswith("protocol=")]
    return f"karst-bench run {shlex.join([*words, *typed, f'seed={run.seed}'])}" if all(typed) else ""


@cache
def _usual_protocol(dataset: str) -> str:
    return all_defaults("dataset", dataset).get("protocol", "last") if dataset in known_options("dataset") else "last"


def _word(deviation: str, run: Run) -> str:
    key, _, value = deviation.partition("=")
    if "~" in value or "?" in value or any(c in value for c in " '\"\\$"):
        return ""
    if key == "weights":
        return "backbone.weights=none" if value == "none" else ""
    if key in run.hyper:
        return f"method.{deviation}"
    return deviation if "." in key or key == "recipe" else ""
