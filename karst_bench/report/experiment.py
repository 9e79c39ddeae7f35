"""What makes a run one experiment, flat, and how that differs from the default configuration of its method and dataset.

The setting of a run must agree within a row, its case within a cell: together they are everything that changes the
experiment but the seed. Machine and commit change rounding or nothing; footnotes tell them apart. Threads order the sums of a
CPU and belong to the case; on a GPU they feed it and do not.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from karst_bench.config.option_files import all_defaults, option_config, option_defaults, options
from karst_bench.records.identity import deciding_facts
from karst_bench.records.record import RunRecord
from karst_bench.report.suite import method_file

Facts = tuple[tuple[str, str], ...]
LIBRARIES = ("torch", "torchvision", "timm")  # another version is another experiment
APART = ("seed", "tuned", "dataset")  # facts that do not stand in the setting as they are
# Told by the row's name, or apart.
NAMES = {f"{node}.name" for node in ("method", "extra", "also", "regularizer", "recipe", "protocol")}
NODES = ("method", "extra", "also", "regularizer", "recipe", "backbone", "dataset")
PROBE = "lora"  # any method that sets nothing but itself, to compose what does not depend on the method


@dataclass(frozen=True)
class Experiment:
    """setting: what a row has in common; case: what a cell has beside it (values tuned for the task, data, libraries);
    deviations: `key=value` where the default configuration has another value."""

    setting: Facts
    case: Facts
    deviations: tuple[str, ...]


def experiment_of(record: RunRecord) -> Experiment:
    """The experiment of a checked record."""
    facts = deciding_facts(record.config)
    tuned = facts.get("tuned", {}).get("values") or {}
    protocol = facts.get("protocol", {})
    if protocol.get("name") == "peek10":  # trains as last does, and its last epoch is the same number
        facts["protocol"] = {key: value for key, value in _file("protocol", "last").items() if value is not None}
    setting = flat({key: value for key, value in facts.items() if key not in APART})
    differing = [*_differing(record.config, facts, setting, tuned), *_weights_differ(record)]
    dataset = _dataset_differs(facts.get("dataset", {}))
    kept = {key: value for key, value in setting.items() if key not in tuned} | dict(dataset)
    kept["weights"] = record.weights.sha256 or "none"
    return Experiment(_sorted(kept), _case(record, facts, tuned), (*differing, *(f"{k}={v}" for k, v in dataset)))


def flat(node: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested groups as dotted keys; every value as it would be typed."""
    found: dict[str, str] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": typed(value)}
    return found


def typed(value: object) -> str:
    """A value as it would be typed on the command line, ASCII; what is long ends in a hash, so that no two are equal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).strip('"')
    clean = "".join(c if c.isprintable() and c.isascii() else "?" for c in text)
    if clean == text and len(text) <= 60:
        return text
    return f"{clean[:44]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _sorted(found: Mapping[str, str]) -> Facts:
    return tuple(sorted(found.items()))


def _case(record: RunRecord, facts: Mapping[str, Any], tuned: Mapping[str, object]) -> Facts:
    dataset, metrics, packages = facts.get("dataset", {}), record.metrics, record.provenance.packages
    found = {key: typed(value) for key, value in tuned.items()}
    found |= {"list": record.data.list_sha256, "encoding": record.data.encoding, "classes": typed(dataset.get("classes"))}
    found |= {"test_n": typed(metrics.test_n), "train_n": typed(metrics.train_n)}
    found |= {"pixels": record.data.pixels_sha256 or "?"}
    # what a method searched or scored decides how much it trains: an outcome, and each seed has its own
    found |= {} if record.artefact else {"params": typed(record.counts.trainable_params)}
    found |= {"threads": typed(record.provenance.threads)} if record.provenance.device == "cpu" else {}
    return _sorted(found | {name: packages.get(name, "?") for name in LIBRARIES})


def _weights_differ(record: RunRecord) -> list[str]:
    kind = "none" if record.weights.sha256 is None else record.weights.kind or "pretrained"
    return [] if kind == "pretrained" else [f"weights={kind}"]


def _dataset_differs(facts: Mapping[str, object]) -> Facts:
    """What the record's dataset has otherwise than conf/dataset; nothing for a dataset that has no file here."""
    own = facts.get("source") == "own"
    name = "folder" if own else str(facts.get("name"))
    if name not in known_options("dataset"):
        return _sorted(flat({key: value for key, value in facts.items() if key in ("transform", "difficulty")}, "dataset."))
    default = flat(deciding_facts({"dataset": dataset_file(name)})["dataset"], "dataset.")
    found = flat(facts, "dataset.")
    free = {"dataset.name", "dataset.shots", "dataset.split_seed", "dataset.encoding"} | ({"dataset.classes"} if own else set())
    return _sorted({key: found.get(key, "null") for key in _unequal(default, found) if key not in free})


@cache
def known_options(group: str) -> frozenset[str]:
    """The options of a group, read once: records are many."""
    return frozenset(options(group))


@cache
def _file(group: str, name: str) -> Mapping[str, Any]:
    return option_config(group, name)


@cache
def dataset_file(name: str) -> Mapping[str, Any]:
    """conf/dataset/<name>.yaml with its bases; of a name that has a file."""
    return option_config("dataset", name)


def _unequal(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    return [key for key in sorted(first.keys() | second.keys()) if first.get(key) != second.get(key)]


def _differing(
    config: Mapping[str, Any], facts: Mapping[str, Any], setting: Mapping[str, str], tuned: Iterable[str]
) -> list[str]:
    """`key=value` of the setting where the composed default has another value, tuned keys aside."""
    names = {node: str((config.get(node) or {}).get("name", "none")) for node in NODES}
    default = default_facts(names["method"], names["dataset"], names["backbone"])
    known = {node: name in known_options(node) for node, name in names.items()}
    said = []
    if known["dataset"]:  # what another dataset would choose is not known
        chosen = {"recipe": names["recipe"], "protocol": str(facts.get("protocol", {}).get("name"))}
        said = [f"{node}={typed(name)}" for node, name in chosen.items() if name != default.get(f"{node}.name")]
    if known["recipe"] and names["recipe"] != default.get("recipe.name"):
        default = default_facts(names["method"], names["dataset"], names["backbone"], names["recipe"])
    own = {node: _file(node, names[node]) if known[node] else {} for node in ("extra", "regularizer")}
    own |= {"also": method_file(names["also"])}
    default = {key: value for key, value in default.items() if key.partition(".")[0] not in ("protocol", *own)}
    default |= flat(deciding_facts(own))
    unknown = {node for node in names if not known[node]} | {"protocol"}
    unknown |= {node for node in ("also", "regularizer") if names[node] == "none"}
    compared = {key for key in setting.keys() | default.keys() if key.partition(".")[0] not in unknown} - NAMES - set(tuned)
    if not known["dataset"]:
        compared -= {"precision"}
    odd = [key for key in sorted(compared) if setting.get(key) != default.get(key)]
    return said + [f"{key.removeprefix('method.')}={setting.get(key, 'null')}" for key in odd]


@cache
def default_facts(method: str, dataset: str, backbone: str, recipe: str = "") -> Mapping[str, str]:
    """The deciding facts of `method=.. dataset=.. backbone=..` (and `recipe=..`) with nothing else said, flat.

    A method that sets nothing but itself and its extra takes the others' composition, which is a quarter of a second each.
    """
    if dataset not in known_options("dataset"):
        dataset = "mini/digits"
    own = method if method in known_options("method") and _sets_more(method) else PROBE
    base = _composed(own, _like(dataset), backbone if backbone in known_options("backbone") else "", recipe)
    if own == method:
        return base
    rest = {key: value for key, value in base.items() if not key.startswith("method.")}
    return rest | flat(deciding_facts({"method": method_file(method)}).get("method", {}), "method.")


@cache
def _sets_more(method: str) -> bool:
    """Whether a method's file sets a recipe, or whatever else, beside its own node and its extra."""
    more = set(_file("method", method)) & {"recipe", "method", "suites", "stages", "subnet"}
    return bool(more or option_defaults("method", method).keys() - {"extra"})


@cache
def _like(dataset: str) -> str:
    """The first dataset whose defaults are the same: what it composes beside its own node is the same too."""
    wanted = _all_defaults(dataset)
    # folder composes with the place of its pictures alone
    return next(name for name in sorted(known_options("dataset") - {"folder"}) if _all_defaults(name) == wanted)


@cache
def _all_defaults(dataset: str) -> Mapping[str, str]:
    return all_defaults("dataset", dataset)


@cache
def _composed(method: str, dataset: str, backbone: str, recipe: str = "") -> Mapping[str, str]:
    from karst_bench.config.compose import settings_of  # Hydra: a third of a second, for those who have records

    words = [f"method={method}", f"dataset={dataset}"]
    words += [f"{key}={value}" for key, value in (("backbone", backbone), ("recipe", recipe)) if value]
    facts = deciding_facts(settings_of(words).as_config())
    return flat({key: value for key, value in facts.items() if key not in APART})
