"""Makes tables of tuned=ours for the embedded suite from records of protocol=val: one learning rate a method and backbone.

python scripts/tuned_mini.py RESULTS            RESULTS/runs/mini holds runs over recipe.lr on mini/digits, cells and distance
The rate with the best mean of val200 over the three tasks wins (the lower of two that tie); a rate that was not run on all
three is no candidate, and one candidate is no search. A table that stands already is left alone. The test splits are not read.
"""

import json
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from karst_bench import files
from karst_bench.cli.app import generator
from karst_bench.config.tuned import backbone_facts
from karst_bench.report.suite import load_suite

TASKS = ("digits", "cells", "distance")
TABLES = Path(__file__).resolve().parents[1] / "conf" / "tuned" / "ours"
SOURCE = ("one learning rate for each method and backbone: the best mean of val200 over mini/digits, mini/cells and "
          "mini/distance (train800, seed 0); see provenance")  # fmt: skip
Found = dict[float, dict[str, float]]


def found(folder: Path) -> dict[tuple[str, str], tuple[Found, dict[str, Any]]]:
    """{(method, backbone): ({rate: {task: val top-1 in percent}}, one of the records)} of the runs that read val200."""
    values: dict[tuple[str, str], Found] = defaultdict(lambda: defaultdict(dict))
    example: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted((folder / "runs" / "mini").glob("*.json")):
        record = json.loads(path.read_text())
        config = record["config"]
        if config["protocol"]["name"] == "val" and config["dataset"]["task"] in TASKS and config["seed"] == 0:
            key = config["method"]["name"], config["backbone"]["name"]
            rate, task = config["recipe"]["lr"], config["dataset"]["task"]
            values[key][rate][task] = record["metrics"]["val_top1_last_pct"]
            example[key] = record
    return {key: (values[key], example[key]) for key in values}


def part(rates: Found, record: dict[str, Any]) -> dict[str, Any] | None:
    """A table's entry for one backbone; None where fewer than two rates were run on all three tasks."""
    means = {rate: round(mean(of.values()), 2) for rate, of in sorted(rates.items()) if set(of) == {*TASKS}}
    if len(means) < 2:
        return None
    best = max(means, key=lambda rate: (means[rate], -rate))
    provenance = {
        "split": "val", "seed": 0,
        "epochs": record["config"]["recipe"]["epochs"], "created": date.today().isoformat(),
        "commit": record["provenance"]["commit"],
        "mean_val_top1_pct": {f"{rate:g}": value for rate, value in means.items()},
        "val_top1_pct": {f"{rate:g}": dict(of) for rate, of in sorted(rates.items())},
    }  # fmt: skip
    values = {f"mini/{task}": {"recipe.lr": best} for task in load_suite("mini").task_names}
    return {"backbone": backbone_facts(record["config"]["backbone"]), "values": values, "provenance": provenance}


def main(folder: Path) -> None:
    """Write conf/tuned/ours/<method>.yaml for the methods that have none, from the runs below FOLDER."""
    tables: dict[str, dict[str, Any]] = {}
    for (method, backbone), (rates, record) in sorted(found(folder).items(), reverse=True):
        if (TABLES / f"{method}.yaml").exists():
            continue
        entry = part(rates, record)
        if entry is None:
            print(f"{method} on {backbone}: fewer than two rates were run on {', '.join(TASKS)}; no table")
            continue
        tables.setdefault(method, {"source": SOURCE, "searched": []})["searched"].append(entry)
    for method, table in sorted(tables.items()):
        head = f"# python run.py method={method} dataset=mini/distance tuned=ours\n"
        text = yaml.safe_dump(table, sort_keys=False, width=120, allow_unicode=True)
        files.write(TABLES / f"{method}.yaml", (head + text).encode(), once=False)
        print(f"{method}.yaml")


if __name__ == "__main__":
    generator(main)
