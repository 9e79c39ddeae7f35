"""What makes two runs the same run: the id of a record, a hash over everything that decides its numbers.

Paths, tracker, device, threads, force and debug are left out: they change where and how fast a run happens, not what
it is. Keys that only describe (licence, paper, ...) and keys that are null are left out too, so that a new optional key
does not orphan the records of yesterday.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

NODES = ("method", "extra", "also", "recipe", "protocol")
DATASET = ("name", "source", "encoding", "transform", "shots", "split_seed", "classes")
BACKBONE = ("timm_name", "model_args")
INPUT = ("input_size", "mean", "std")  # a config may leave these to the backbone; a record never does
TUNED = ("name", "values")
SCALARS = ("normalization", "seed", "precision")
DESCRIPTIONS = {"about", "label", "paper", "licence", "origin", "trap", "known_issues", "label_rule", "description"}


def _canonical(value: Any) -> Any:
    """One form per meaning: 1.0 and 1 are equal, tuples are lists, null and descriptive keys are absent."""
    if isinstance(value, Mapping):
        kept = {str(key): _canonical(item) for key, item in value.items() if item is not None}
        return {key: item for key, item in kept.items() if key not in DESCRIPTIONS}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _pick(node: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: node.get(key) for key in keys} if isinstance(node, Mapping) else {}


def _digest(facts: Mapping[str, Any]) -> str:
    text = json.dumps(_canonical(facts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {node: config.get(node) for node in NODES}
    facts |= {key: config.get(key) for key in SCALARS}
    facts["backbone"] = _pick(config.get("backbone"), BACKBONE)
    facts["dataset"] = _pick(config.get("dataset"), DATASET)
    facts["tuned"] = _pick(config.get("tuned"), TUNED)
    return facts


def run_id(
    config: Mapping[str, Any], *, weights_sha256: str | None, list_sha256: str, encoding: str | None = None
) -> str:
    """The 16 hex digits of a run: SHA-256 over its canonical facts, the hashes of its weights and split lists.

    `encoding` is what the data turned out to be (png | jpeg75 | native | generated); it wins over the config's wish.
    Raises ValueError where the config holds NaN or an infinity.
    """
    facts = _facts(config)
    facts["backbone"] |= _pick(config.get("backbone"), INPUT) | {"weights_sha256": weights_sha256}
    facts["dataset"]["list_sha256"] = list_sha256
    if encoding is not None:
        facts["dataset"]["encoding"] = encoding
    return _digest(facts)


def cell_key(config: Mapping[str, Any]) -> str:
    """The 16 hex digits of a planned cell: as `run_id`, but from the config alone, before weights and data are read."""
    facts = _facts(config)
    facts["backbone"] |= _pick(config.get("backbone"), ("weights",))
    return _digest(facts)
