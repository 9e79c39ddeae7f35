"""Records of earlier schemas brought to the present one. A file is never rewritten: this happens on every reading."""

from collections.abc import Callable
from typing import Any

from karst_bench.records.strict_json import need

SCHEMA = 3
# Schema 1 kept the packages' versions beside the other facts of provenance.
PACKAGES_1 = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "hydra_core", "omegaconf", "safetensors",
              "scikit_learn", "optuna", "wandb")  # fmt: skip


def _from_1(old: dict[str, object]) -> dict[str, object]:
    """Schema 1: absent facts were null, package versions stood flat in provenance."""
    new = {key: value for key, value in old.items() if value is not None} | {"schema": 2, "id_schema": 1}
    if isinstance(provenance := old.get("provenance"), dict):
        packages = {key: provenance[key] for key in PACKAGES_1 if provenance.get(key) is not None}
        kept = {key: value for key, value in provenance.items() if key not in PACKAGES_1}
        new["provenance"] = kept | {"packages": packages}
    return new


def _from_2(old: dict[str, object]) -> dict[str, object]:
    """Schema 2: a digest over the file was optional; what had none says so from now on."""
    new = {key: value for key, value in old.items() if key != "digest"} | {"schema": 3}
    return new if "digest" in old else new | {"undigested": True}


STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}


def migrate(parsed: Any) -> dict[str, Any]:
    """The fields of a record in the present layout; `id_schema` says whose rule made its id.

    Raises: RecordError where it is no JSON object or its schema is not among those this version reads.
    """
    need(isinstance(parsed, dict), f"a record is a JSON object, this is a {type(parsed).__name__}")
    version = parsed.get("schema")
    known = type(version) is int and 1 <= version <= SCHEMA
    need(known, f"schema version {str(version)[:40]!r}; this reads 1 to {SCHEMA}")
    fields: dict[str, Any] = parsed
    for step in range(parsed["schema"], SCHEMA):
        fields = STEPS[step](fields)
    return fields
