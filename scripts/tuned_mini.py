"""Makes tables of tuned=ours for the embedded suite from records that read val: one learning rate a method and backbone.

python scripts/tuned_mini.py RESULTS            RESULTS/runs/mini holds runs over recipe.lr
The nine tasks: runs of protocol=val on mini/digits, cells and distance; the rate with the best mean of val200 wins. The few-shot
sets: runs of protocol=best_val on both at 4 shots, split_seed 0; the best mean of val's best epoch wins. The lower of two that
tie; a rate that was not run on every set is no candidate, and one candidate is no search. Methods of SHARED take another's
few-shot rate. What stands in a table already is left alone. The test splits are not read.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from karst_bench import files
from karst_bench.cli.app import generator
from karst_bench.config.tuned import backbone_facts
from karst_bench.report.suite import load_suite

TABLES = Path(__file__).resolve().parents[1] / "conf" / "tuned" / "ours"
SHARED = {"noah": "lora", "glora": "lora"}  # a search of each over rates takes half an hour of a GPU
Found = dict[float, dict[str, float]]


@dataclass(frozen=True)
class Search:
    """Where rates are compared, by which number of a record, and for which datasets the best one stands."""

    protocol: str
    searched: tuple[str, ...]
    facts: tuple[tuple[str, int], ...]
    metric: str
    source: str
    provenance: str  # its key in a table's entry

    def holds(self, config: dict[str, Any]) -> bool:
        """Whether a run of this configuration is one of the search's."""
        dataset = config["dataset"]
        same = all(dataset.get(key) == value for key, value in self.facts)
        return bool(config["protocol"]["name"] == self.protocol and config["seed"] == 0 and same
                    and dataset["name"].removeprefix("mini/") in self.searched)  # fmt: skip


TASKS = Search(
    "val", ("digits", "cells", "distance"), (), "val_top1_last_pct",
    "one learning rate for each method and backbone: the best mean of val200 over mini/digits, mini/cells and "
    "mini/distance (train800, seed 0); see provenance", "provenance",
)  # fmt: skip
FEW_SHOT = Search(
    "best_val", ("fs_flowers", "fs_glyphs"), (("shots", 4), ("split_seed", 0)), "val_top1_best_pct",
    "one learning rate for each method: the best mean of val over mini/fs_flowers and mini/fs_glyphs (4 shots, split_seed 0, "
    "val's best epoch); see few_shot_provenance", "few_shot_provenance",
)  # fmt: skip


def found(folder: Path, search: Search) -> dict[tuple[str, str], tuple[Found, dict[str, Any]]]:
    """{(method, backbone): ({rate: {set: val top-1 in percent}}, one of the records)} of a search's runs."""
    values: dict[tuple[str, str], Found] = defaultdict(lambda: defaultdict(dict))
    example: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted((folder / "runs" / "mini").glob("*.json")):
        record = json.loads(path.read_text())
        config = record["config"]
        if search.holds(config):
            key = config["method"]["name"], config["backbone"]["name"]
            name = config["dataset"]["name"].removeprefix("mini/")
            values[key][config["recipe"]["lr"]][name] = round(record["metrics"][search.metric], 2)
            example[key] = record
    return {key: (values[key], example[key]) for key in values}


def best(rates: Found, search: Search) -> tuple[float, dict[str, Any]] | None:
    """(the rate, what was seen); None where fewer than two rates were run on every set."""
    means = {rate: round(mean(of.values()), 2) for rate, of in sorted(rates.items()) if set(of) == {*search.searched}}
    if len(means) < 2:
        return None
    seen = {
        "mean_val_top1_pct": {f"{rate:g}": value for rate, value in means.items()},
        "val_top1_pct": {f"{rate:g}": dict(of) for rate, of in sorted(rates.items())},
    }
    return max(means, key=lambda rate: (means[rate], -rate)), seen


def part(rates: Found, record: dict[str, Any], search: Search, names: Sequence[str]) -> dict[str, Any] | None:
    """A table's entry for one backbone and these datasets; None without a search."""
    chosen = best(rates, search)
    if chosen is None:
        return None
    rate, seen = chosen
    provenance = {"split": "val", "seed": 0, **dict(search.facts), "epochs": record["config"]["recipe"]["epochs"],
                  "created": date.today().isoformat(), "commit": record["provenance"]["commit"], **seen}  # fmt: skip
    values = {f"mini/{name}": {"recipe.lr": rate} for name in names}
    return {"backbone": backbone_facts(record["config"]["backbone"]), "values": values, search.provenance: provenance}


def table_of(method: str) -> dict[str, Any]:
    file = TABLES / f"{method}.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else {}


def put(method: str, entry: dict[str, Any], source: str) -> bool:
    """Adds an entry to the method's table, to that of the same backbone where one stands; whether that changed it."""
    table = table_of(method) or {"source": source, "searched": []}
    same = next((other for other in table["searched"] if other["backbone"] == entry["backbone"]), None)
    if same is None:
        table["searched"].append(entry)
    elif set(entry["values"]) & set(same["values"]):
        return False
    else:
        same["values"] |= entry["values"]
        same |= {key: value for key, value in entry.items() if key.endswith("provenance")}
    dataset = next(iter(table["searched"][0]["values"]))
    head = f"# python run.py method={method} dataset={'mini/distance' if dataset != 'mini/fs_flowers' else dataset} tuned=ours\n"
    text = yaml.safe_dump(table, sort_keys=False, width=120, allow_unicode=True)
    files.write(TABLES / f"{method}.yaml", (head + text).encode(), once=False)
    return True


def main(folder: Path) -> None:
    """Write what is missing in conf/tuned/ours/<method>.yaml from the runs below FOLDER."""
    names = {TASKS: load_suite("mini").task_names, FEW_SHOT: FEW_SHOT.searched}
    for search, datasets in names.items():
        for (method, backbone), (rates, record) in sorted(found(folder, search).items(), reverse=True):
            entry = part(rates, record, search, datasets)
            if entry is None:
                print(f"{method} on {backbone}: fewer than two rates were run on {', '.join(search.searched)}; no table")
                continue
            for name in [method, *(name for name, other in SHARED.items() if other == method and search is FEW_SHOT)]:
                own = entry if name == method else entry | {search.provenance: {"shared_with": method}}
                if put(name, own, search.source):
                    print(f"{name}.yaml: {backbone}, {', '.join(datasets)}")


if __name__ == "__main__":
    generator(main)
