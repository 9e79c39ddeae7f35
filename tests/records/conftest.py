"""A small record and config that are valid, to be bent by the tests."""

import copy
from typing import Any

import msgspec
import pytest

from karst_bench.records import identity
from karst_bench.records.facts import (
    CheckResult,
    Counts,
    Curves,
    DataFacts,
    Metrics,
    Provenance,
    RunFailure,
    Seconds,
    Speed,
    WeightsFacts,
)
from karst_bench.records.record import FailedRun, RunRecord

CONFIG: dict[str, Any] = {
    "seed": 0,
    "suite": "mini",
    "precision": "fp32",
    "normalization": "model",
    "device": "cpu",
    "threads": 1,
    "paths": {key: f"/somewhere/{key}" for key in ("data", "weights", "results", "cache")},
    "method": {"name": "karst", "N": 2, "m": 8, "r": 8, "sigma": 1.0},
    "extra": {"name": "rst"},
    "also": {"name": "none"},
    "tuned": {"name": "none"},
    "backbone": {"name": "vit_mini", "timm_name": "vit_tiny", "weights": "pretrained", "model_args": {"depth": 8}},
    "dataset": {"name": "mini/digits", "suite": "mini", "task": "digits", "group": "natural", "classes": 10},
    "recipe": {"name": "mini", "lr": 1e-3, "epochs": 10, "batch": 64},
    "protocol": {"name": "last"},
    "tracker": {"name": "none"},
}


def build(config: dict[str, Any], run_id: str | None = None) -> RunRecord:
    """A finished record of `config`."""
    return RunRecord(
        id=run_id or identity.identify(config, weights_sha256="w" * 64, list_sha256="l" * 64, encoding="generated"),
        config=copy.deepcopy(config),
        data=DataFacts(list_sha256="l" * 64, encoding="generated", source="mini"),
        weights=WeightsFacts(name="vit_mini", sha256="w" * 64),
        provenance=Provenance(version="0.1.0", packages={"torch": "2.15.0"}),
        metrics=Metrics(test_top1_last_pct=71.25, test_n=400, train_n=1000),
        curves=Curves(epoch=(1, 2), train_loss=(2.0, 1.0), train_top1_pct=(10.0, 50.0), lr=(1e-3, 0.0),
                      checks=(CheckResult(epoch=2, split="test", top1_pct=71.25),)),
        counts=Counts(trainable_params=1000, head_params=10),
        seconds=Seconds(train_s=1.5, total_s=2.0),
        speed=Speed(train_images_per_s=900.0, step_ms_median=3.0),
        peak_bytes=1000,
    )  # fmt: skip


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(CONFIG)


@pytest.fixture
def record(config: dict[str, Any]) -> RunRecord:
    return build(config)


@pytest.fixture
def failure(record: RunRecord) -> FailedRun:
    """The same run, failed."""
    header = {key: getattr(record, key) for key in ("id", "config", "data", "weights", "provenance")}
    return FailedRun(**header, error=RunFailure(type="FloatingPointError", message="loss is nan", traceback="..."))


@pytest.fixture
def fields(record: RunRecord) -> dict[str, Any]:
    """The record's file, parsed, to be bent by the tests."""
    return msgspec.to_builtins(record)
