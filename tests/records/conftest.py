"""A small record and config that are valid, to be bent by the tests."""

import copy
from typing import Any

import pytest

from karst_bench.records import identity
from karst_bench.records import record as schema

CONFIG: dict[str, Any] = {
    "seed": 0,
    "suite": "mini",
    "precision": "fp32",
    "normalization": "model",
    "device": "cpu",
    "threads": 1,
    "paths": {"data": "/a", "weights": "/b", "results": "/c", "cache": "/d"},
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


def build(config: dict[str, Any], run_id: str | None = None) -> dict[str, Any]:
    """A finished record of `config`."""
    run_id = run_id or identity.run_id(config, weights_sha256="w" * 64, list_sha256="l" * 64)
    return {
        "schema": schema.SCHEMA,
        "id": run_id,
        "status": "done",
        "created": schema.now(),
        "config": copy.deepcopy(config),
        "metrics": {"test_top1_last_pct": 71.25, "test_top1_peak_pct": None, "test_n": 400, "train_n": 1000},
        "curves": {"epoch": [1, 2], "train_loss": [2.0, 1.0], "train_top1_pct": [10.0, 50.0], "lr": [1e-3, 0.0]},
        "counts": {"trainable_params": 1000, "head_params": 10, "stored_bits": 32000, "active_params": 1000},
        "seconds": {"train_s": 1.5, "total_s": 2.0},
        "speed": {"train_images_per_s": 900.0, "step_ms_median": 3.0},
        "peak_bytes": 1000,
        "data": {"list_sha256": "l" * 64, "encoding": "generated", "source": "mini"},
        "weights": {"name": "vit_mini", "sha256": "w" * 64},
        "provenance": {"commit": None, "version": "0.1.0"},
        "notes": [],
        "adapter": None,
        "error": None,
    }


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(CONFIG)


@pytest.fixture
def record(config: dict[str, Any]) -> dict[str, Any]:
    return build(config)
