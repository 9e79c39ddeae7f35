"""Records made for the tests: valid by the schema, accuracies chosen by the caller."""

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import option_config
from karst_bench.records.identity import identify
from karst_bench.report.experiment import dataset_file, known_options
from karst_bench.report.suite import Suite, load_suite, method_file, own_extra, planned_rows

STRENGTH = {
    "full": -9.0, "linear": -20.0, "bitfit": -12.0, "vpt_deep": -6.0, "lst": -4.0, "lora": -3.5, "adaptformer": -3.4,
    "noah": -2.6, "fact_tk": -2.5, "ssf": -2.4, "dtl": -1.4, "heat": -0.9, "glora": -0.8, "sparse_tuning": -0.7,
    "karst": 0.0, "ka": -0.6, "adapter_noah": -4.0,
}  # fmt: skip
PARAMS = {
    "full": 85798656, "linear": 0, "bitfit": 102912, "vpt_deep": 92160, "lst": 2380000, "lora": 294912,
    "adaptformer": 156768, "noah": 430000, "fact_tk": 86528, "ssf": 205824, "dtl": 36864, "heat": 200000,
    "glora": 290000, "sparse_tuning": 320000, "karst": 337920, "ka": 301056, "adapter_noah": 156768,
}  # fmt: skip


def group_of(suite: Suite, task: str) -> str:
    """The group of a task, "own" for one that the suite does not have."""
    return {known.task: known.group for known in suite.tasks}.get(task, "own")


def record(
    method: str = "karst", task: str = "cifar100", seed: int = 0, last: float | None = 70.0, suite: str = "vtab",
    group: str = "", protocol: str = "last", peak: float | None = None, hyper: dict[str, Any] | None = None,
    extra: str = "none", shots: int | None = None, split_seed: int | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """One finished run. `changes` are dotted keys with __ for the dot: provenance__commit="abc"."""
    few = shots is not None
    group = group or ("fewshot" if few else group_of(load_suite(suite), task))
    folder = group if group in ("fewshot", "fgvc") and suite == "vtab" else suite
    last = last if last is None else round(last, 2)  # a whole number of 10,000 images
    peak = peak if peak is None else round(peak, 2)
    config = composed(suite, few, protocol)
    own = method_file(method) or {"_target_": f"m.{method}", "name": method}
    size = {"N": 2, "m": 8, "r": 8} if hyper is None and method in ("karst", "ka") else hyper or {}
    recipe = option("method", method).get("recipe", {}) if method in known_options("method") else {}
    chosen = own_extra(method) if extra == "none" else extra
    named = option("extra", chosen) if chosen in known_options("extra") else {"name": chosen}
    known = f"{folder}/{task}" in known_options("dataset")
    dataset = dataset_file(f"{folder}/{task}") if known else {"source": "folder", "classes": 10}
    checks = [] if peak is None else [{"epoch": 1, "split": "test", "top1_pct": peak}]
    config |= {
        "seed": seed, "suite": suite, "method": {**own, **size}, "extra": named, "recipe": {**config["recipe"], **recipe},
        "dataset": {**dataset, "name": f"{folder}/{task}", "suite": suite, "task": task, "group": group, "shots": shots,
                    "split_seed": split_seed},
    }  # fmt: skip
    made: dict[str, Any] = {
        "schema": 1, "status": "done", "created": "2026-01-02T03:04:05Z", "config": config,
        "metrics": {"test_top1_last_pct": last, "test_top1_peak_pct": peak, "val_top1_last_pct": None,
                    "val_top1_best_pct": None, "best_epoch": None, "test_n": 10000, "val_n": 200, "train_n": 1000},
        "curves": {"checks": checks},
        "counts": {"trainable_params": PARAMS.get(method, 123456) if size.get("N", 2) == 2 else 168960 * size["N"],
                   "head_params": 76900, "stored_bits": 1, "active_params": 1, "forward_macs": 1},
        "seconds": {"total_s": 10.0}, "speed": {"step_ms_median": 20.0 + len(method)}, "peak_bytes": 3 * 2**30,
        "data": {"list_sha256": "ab" * 32, "encoding": "png", "own_split": False},
        "weights": {"name": "vit", "timm_name": "vit_b.orig_in21k", "kind": "pretrained", "sha256": "cd" * 32},
        "provenance": {"commit": "0123456789abcdef", "dirty": False, "version": "0.1.0", "device": "H200",
                       "threads": 8, "torch": "2.15.0", "timm": "1.0.31"},
        "notes": [], "adapter": None, "error": None,
    }  # fmt: skip
    for key, value in changes.items():
        *path, leaf = key.split("__")
        node = made
        for part in path:
            node = node[part]
        node[leaf] = value
    with suppress(AttributeError, KeyError, TypeError, ValueError):  # a record bent beyond an id keeps a made-up one
        if "epoch" not in made["curves"]:
            made["curves"]["epoch"] = list(range(1, trained_last(made["config"]).get("epochs", 0) + 1))
        made.setdefault("id", id_of(made))
    made.setdefault("id", "0123456789abcdef")
    return made


def trained_last(config: dict[str, Any]) -> dict[str, Any]:
    """Where the epochs of a run's curves stand: GLoRA trains a supernet and nothing after it."""
    stages = config["method"].get("stages")
    return stages["supernet"] if stages and stages["train"] is None else config["recipe"]


def id_of(made: dict[str, Any]) -> str:
    """The id that follows from what a record says."""
    data = made["data"]
    return identify(made["config"], weights_sha256=made["weights"]["sha256"], list_sha256=data["list_sha256"],
                    encoding=data["encoding"], pixels_sha256=data.get("pixels_sha256"), schema=made["schema"])  # fmt: skip


@cache
def _option(group: str, name: str) -> dict[str, Any]:
    return option_config(group, name)


def option(group: str, name: str) -> dict[str, Any]:
    """A file of conf/, read once; the caller may change the outermost keys."""
    return dict(_option(group, name))


@cache
def _composed(words: tuple[str, ...]) -> dict[str, Any]:
    return settings_of(words).as_config()


def composed(suite: str, few: bool, protocol: str) -> dict[str, Any]:
    """What a run of Table I or of Figure 2 is configured by, to be changed by the caller."""
    known = load_suite(suite)
    dataset = (known.few_shot_sets if few else known.tasks)[0].option
    words = ("method=lora", f"dataset={dataset}", f"backbone={known.sweeps['table1'].values('backbone')[0]}")
    config = {key: dict(node) if isinstance(node, dict) else node for key, node in _composed(words).items()}
    node = option("protocol", protocol) if protocol in known_options("protocol") else {"name": protocol}
    return config | {"paths": {}, "protocol": node}


def write(results: Path, *records: dict[str, Any]) -> list[Path]:
    """Put records where the runner would."""
    paths = []
    for item in records:
        folder = results / "runs" / item["config"]["suite"]
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{item['id']}.json")
        paths[-1].write_text(json.dumps(item))
    return paths


def full_suite(suite: str, seeds: int = 3, splits: int = 1) -> list[dict[str, Any]]:
    """Every method of Tables I and III on every task, few-shot curves and an N x m x r grid, with seeded noise."""
    rng = np.random.default_rng(5)
    curves = {row.method for row in planned_rows(load_suite(suite).sweeps["figure2"])}
    made = []
    for method, strength in STRENGTH.items():
        for index, task in enumerate(load_suite(suite).task_names):
            base = 60 + 35 * ((index * 7) % 10) / 10
            for seed in range(seeds):
                last = float(np.clip(base + strength + rng.normal() * 0.8 + (index % 3) * 0.3, 0, 99.9))
                peak = min(100.0, last + float(rng.exponential(0.6))) if method in ("karst", "lora") else None
                made.append(record(method, task, seed, last, suite, protocol="peek10" if peak else "last", peak=peak))
        for order, dataset in enumerate(load_suite(suite).few_shot_sets):
            for shots in load_suite(suite).shots if method in curves else ():
                for split in range(splits):
                    last = 30 + 8 * order + 12 * float(np.log2(shots)) + strength / 2 + rng.normal()
                    made.append(record(method, dataset.task, 0, float(np.clip(last, 0, 99)), suite,
                                       protocol="best_val", shots=shots, split_seed=split))  # fmt: skip
    for n, m, r in [(1, 8, 8), (3, 8, 8), (4, 8, 8), (2, 4, 8), (2, 16, 8), (2, 8, 4), (2, 8, 2), (4, 16, 8)]:
        params = int(n * 12544 * 12 * r / 8 * 8 / m)
        for task in load_suite(suite).task_names[:4]:
            for seed in range(seeds):
                last = 75 + 3 * float(np.log10(params / 1e5)) - 0.6 * abs(n - 3) + rng.normal() * 0.3
                made.append(record("karst", task, seed, last, suite, hyper={"N": n, "m": m, "r": r},
                                   counts__trainable_params=params))  # fmt: skip
    return made
