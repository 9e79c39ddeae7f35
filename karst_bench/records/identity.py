"""What makes two runs the same run: the id of a record, a hash over everything that decides its numbers.

Paths, tracker, device, threads, force and debug are left out: they change where and how fast a run happens, not what
it is. Keys that only describe (licence, paper, ...), keys that are null and LATER ones at their first value are left out
too, so that a new option does not orphan the records of yesterday.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from karst_bench.records.migrations import SCHEMA

if TYPE_CHECKING:
    from karst_bench.records.record import RunHeader

NODES = ("method", "extra", "also", "recipe", "protocol")
DATASET = ("name", "source", "encoding", "transform", "shots", "split_seed", "classes", "difficulty", "limit", "val_share",
           "test_share", "white")  # fmt: skip
BACKBONE = ("timm_name", "model_args")
INPUT = ("input_size", "mean", "std")  # a config may leave these to the backbone; a record never does
TUNED = ("name", "values")
SCALARS = ("normalization", "seed", "precision")
# Options that came later, at the value of all runs before them: left out, so that those runs keep their ids.
LATER: dict[str, dict[str, object]] = {
    "recipe": {"lag": 1, "cosine_after_warmup": False, "warmup_reaches_lr": False, "decay_1d": "none", "drop_last": False},
}
LATER_OF_METHOD: dict[str, dict[str, object]] = {"convpass": {"init": "identity"}}
DESCRIPTIONS = {"about", "label", "paper", "licence", "origin", "trap", "known_issues", "label_rule", "description"}


def _canonical(value: Any) -> Any:
    """One form per meaning: 1.0 and 1 are equal, tuples are lists, null and descriptive keys are absent."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        kept = ((str(key), item) for key, item in value.items() if item is not None)
        return {key: _canonical(item) for key, item in kept if key not in DESCRIPTIONS}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _pick(node: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: node.get(key) for key in keys} if isinstance(node, Mapping) else {}


def without_later(node: str, values: Any) -> Any:
    """A node of a configuration without the options that came later, where they say what ran before there were any."""
    if not isinstance(values, Mapping):
        return values
    later = LATER.get(node) or LATER_OF_METHOD.get(str(values.get("name")), {})
    return {key: value for key, value in values.items() if key not in later or value != later[key]}


def _chosen(node: Any) -> Any:
    """A group that older configurations lack: none of it is the same as `none`."""
    return None if isinstance(node, Mapping) and node.get("name") == "none" else node


def _digest(facts: Mapping[str, object]) -> str:
    text = json.dumps(_canonical(facts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts(config: Mapping[str, object]) -> dict[str, Any]:
    facts: dict[str, Any] = {node: without_later(node, config.get(node)) for node in NODES}
    facts |= {key: config.get(key) for key in SCALARS}
    facts["regularizer"] = _chosen(config.get("regularizer"))
    facts["backbone"] = _pick(config.get("backbone"), BACKBONE)
    facts["dataset"] = _pick(config.get("dataset"), DATASET)
    facts["tuned"] = _pick(config.get("tuned"), TUNED)
    return facts


def deciding_facts(config: Mapping[str, object]) -> dict[str, Any]:
    """What of a configuration decides the numbers of its run, in one form per meaning; ids are hashes over it."""
    found: dict[str, Any] = _canonical(_facts(config) | {"backbone": _pick(config.get("backbone"), BACKBONE + INPUT)})
    return found


def identify(
    config: Mapping[str, object],
    *,
    weights_sha256: str | None,
    list_sha256: str,
    encoding: str | None = None,
    pixels_sha256: str | None = None,
    schema: int = SCHEMA,
) -> str:
    """The 16 hex digits of a run: SHA-256 over its canonical facts, the hashes of its weights, split lists and pixels.

    `encoding` is what the data turned out to be (png | jpeg75 | native | generated); it wins over the config's wish.
    `schema` is the one whose rule is asked for; the pixels count since schema 2, where they are known.
    Raises: ValueError where the config holds NaN or an infinity.
    """
    facts = _facts(config)
    facts["backbone"] |= _pick(config.get("backbone"), INPUT) | {"weights_sha256": weights_sha256}
    facts["dataset"]["list_sha256"] = list_sha256
    if encoding is not None:
        facts["dataset"]["encoding"] = encoding
    if schema >= 2:
        facts["dataset"]["pixels_sha256"] = pixels_sha256
    return _digest(facts)


def recomputed_id(record: "RunHeader") -> str:
    """The id that a record ought to have by what it says, by the rule of the schema that made its id."""
    return identify(
        record.config,
        weights_sha256=record.weights.sha256,
        list_sha256=record.data.list_sha256,
        encoding=record.data.encoding,
        pixels_sha256=record.data.pixels_sha256,
        schema=record.id_schema,
    )


def cell_key(config: Mapping[str, object]) -> str:
    """The 16 hex digits of a planned cell: as `identify`, but from the config alone, before weights and data are read."""
    facts = _facts(config)
    facts["backbone"] |= _pick(config.get("backbone"), ("weights",))
    return _digest(facts)
