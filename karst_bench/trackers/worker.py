"""The tracker process: W&B and TensorBoard behind one small interface, fed by client.py.

Run by path, so that it starts without torch: standard library at the top, the tracker's package when it is needed.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

START_S, FINISH_S = 10.0, 30.0  # how long W&B may try to reach its server
NUMBERS = ("metrics", "counts", "seconds", "speed")


class Wandb:
    """One W&B run. Online where the server answers, else a copy on disk for `wandb sync`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.outcome = ""
        self.note = ""

    def start(self, config: Mapping[str, Any], run_id: str, resumed: bool) -> None:
        """Open the run under the record's id; fall back to offline with a note why."""
        Path(self.settings["folder"]).mkdir(parents=True, exist_ok=True)  # first: importing wandb takes seconds
        import wandb

        self.wandb = wandb
        named = _names(config)
        arguments: dict[str, Any] = {
            "project": self.settings.get("project") or "karst_bench",
            "entity": self.settings.get("entity"),
            "id": run_id,
            "name": f"{named['method']} {named['dataset']} seed {config.get('seed')}",
            "group": f"{named['method']} {named['dataset']}",
            "job_type": named["protocol"],
            "tags": sorted({value[:64] for value in named.values() if value and value != "none"}),
            "config": dict(config),
            "dir": self.settings["folder"],
        }
        mode = self.settings.get("mode") or "online"
        try:
            live: dict[str, Any] = {"mode": mode, "resume": "allow" if resumed and mode == "online" else None}
            self.run = wandb.init(settings=self._quiet(), **live, **arguments)
        except Exception as error:
            if mode == "offline":
                raise
            wandb.teardown()  # forget the failed attempt, which still holds the id
            self.note = f"not online ({' '.join(str(error).split())[:120]}); "
            self.run = wandb.init(mode="offline", settings=self._quiet(), **arguments)
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")

    def _quiet(self) -> Any:
        wished: dict[str, Any] = {
            "silent": True,
            "console": "off",
            "init_timeout": START_S,
            "finish_timeout": FINISH_S,
            "disable_code": True,
            "x_disable_machine_info": True,
            "x_graphql_retry_max": 1,
            "x_graphql_timeout_seconds": START_S / 2,
        }
        known = self.wandb.Settings.model_fields
        return self.wandb.Settings(**{key: value for key, value in wished.items() if key in known})

    def log(self, row: Mapping[str, Any]) -> None:
        """One epoch."""
        self.run.log(dict(row))

    def finish(self, record: Mapping[str, Any] | None, adapter: str | None) -> None:
        """Summary, result table, adapter as artifact; then close."""
        if record is not None:
            numbers = _numbers(record)
            self.run.summary.update(numbers | {"status": record["status"]})
            names = _names(record["config"]) | {"seed": record["config"].get("seed")}
            row = names | {key: value for key, value in numbers.items() if key.startswith("metrics/")}
            self.run.log({"result": self.wandb.Table(columns=list(row), data=[list(row.values())])})
        if adapter and Path(adapter).is_file():
            artifact = self.wandb.Artifact(f"adapter-{self.run.id}", type="adapter")
            artifact.add_file(adapter)
            self.run.log_artifact(artifact)
        folder = Path(self.run.dir).parent
        self.run.finish(exit_code=0 if record is not None and record["status"] == "done" else 1)
        if self.note or folder.name.startswith("offline-"):
            self.outcome = f"{self.note}sync it later with: wandb sync {folder}"


class Tensorboard:
    """One event folder per run."""

    outcome = ""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def start(self, config: Mapping[str, Any], run_id: str, resumed: bool) -> None:
        """Open <folder>/<id>; a resumed run adds a file to it."""
        from tensorboard.summary import Writer

        self.writer = Writer(str(Path(self.settings["folder"]) / run_id))

    def log(self, row: Mapping[str, Any]) -> None:
        """One epoch: a scalar per number."""
        for key, value in row.items():
            if key != "epoch" and isinstance(value, int | float):
                self.writer.add_scalar(key, float(value), int(row["epoch"]))

    def finish(self, record: Mapping[str, Any] | None, adapter: str | None) -> None:
        """The record's numbers as scalars at step 0; then close."""
        for key, value in (_numbers(record) if record is not None else {}).items():
            self.writer.add_scalar(key, float(value), 0)
        self.writer.close()


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """What a run is called by: suite, method, backbone, dataset, ..."""
    nodes = ("method", "extra", "also", "regularizer", "backbone", "dataset", "protocol", "tuned", "recipe")
    named = {node: str((config.get(node) or {}).get("name") or "none") for node in nodes}
    return named | {"suite": str(config.get("suite"))}


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's numbers, flat: metrics/test_top1_last_pct, seconds/train_s, ..."""
    sections = {section: record.get(section) or {} for section in NUMBERS}
    flat = {f"{section}/{key}": value for section, node in sections.items() for key, value in node.items()}
    return {key: value for key, value in flat.items() if isinstance(value, int | float)}


def _rows(record: Mapping[str, Any] | None, seen: set[int]) -> list[dict[str, Any]]:
    """The epochs of a record's curves that were not logged live: those before a resume, or all."""
    curves = (record or {}).get("curves") or {}
    rows = {epoch: {"epoch": epoch} for epoch in curves.get("epoch", []) if epoch not in seen}
    for position, epoch in enumerate(curves.get("epoch", [])):
        if epoch in rows:
            rows[epoch] |= {
                key: curves[key][position] for key in ("train_loss", "train_top1_pct", "lr") if curves.get(key)
            }
    for check in curves.get("checks", []):
        if check.get("epoch") in rows:
            rows[check["epoch"]][f"{check['split']}_top1_pct"] = check["top1_pct"]
    return list(rows.values())


def serve(kind: str, settings: Mapping[str, Any], events: IO[str]) -> str:
    """Follow the events of one run; returns the line to report, empty when all went well."""
    backend = Wandb(settings) if kind == "wandb" else Tensorboard(settings)
    seen: set[int] = set()
    ended = False
    for line in events:
        event = json.loads(line)
        if event["event"] == "start":
            backend.start(event["config"], event["id"], event["resumed"])
        elif event["event"] == "log":
            backend.log(event["row"])
            seen.add(event["row"].get("epoch"))
        else:
            for row in _rows(event["record"], seen):
                backend.log(row)
            backend.finish(event["record"], event["adapter"])
            ended = True
    if not ended:  # the pipe closed: the training process is gone
        backend.finish(None, None)
    return backend.outcome


def main() -> None:
    """The tracker process: serve, say the outcome, leave without waiting for anybody's exit handlers."""
    speak = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; the pipe back carries one line
    try:
        outcome = serve(sys.argv[1], json.loads(sys.argv[2]), sys.stdin)
    except ModuleNotFoundError as error:
        outcome = (
            f"needs the package {error.name} (pip install {error.name}); nothing is tracked, the record is whole"
        )
    except BaseException as error:
        outcome = (
            f"{type(error).__name__}: {' '.join(str(error).split())[:160]}; what it tracked is not whole, the record is"
        )
    with suppress(BrokenPipeError):  # the training process may have ended meanwhile
        speak.write(outcome + "\n")
        speak.close()
    os._exit(0)


if __name__ == "__main__":
    main()
