"""Per-dataset values of a method and the whole setting around them: a paper's (tuned=paper), or what our search found.

A paper's table speaks of a family of backbones. What a search found holds for the backbone and the weights that were searched,
and is looked up by both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from karst_bench.config.option_files import options
from karst_bench.config.settings import CHOICES
from karst_bench.config.tuned_files import SETTING, read_table
from karst_bench.errors import UserError, nearest
from karst_bench.files import packaged

PAPER = "paper"  # the kind whose tables were printed, not searched
UNKNOWN = object()


@dataclass(frozen=True)
class TunedEntry:
    """What the tables say of one method on one dataset.

    values: {dotted key: value}; setting: {recipe | normalization | backbone | protocol: choice} of the whole suite; lacks: what
    of the paper's setting is in neither; missing: why there is no entry, else None.
    """

    kind: str
    source: str | None
    values: Mapping[str, object]
    setting: Mapping[str, str]
    lacks: str | None
    missing: str | None


def table_path(folder: Path, kind: str, method: str) -> Path:
    """<folder>/<kind>/<method>.yaml, in what a user's own search found (<paths.results>/tuned) as in conf/tuned."""
    return folder / kind / f"{method}.yaml"


def tuned_entry(cfg: DictConfig | Mapping[str, Any]) -> TunedEntry | None:
    """The entry of tuned/<kind>/<method>.yaml for the configuration's dataset (and shots); None for tuned=none.

    A paper's table is {dataset: {key: value}}, of a few-shot set {dataset: {shots: {key: value}}}, with `settings`, `every`
    (values of all datasets) and `lacks` by suite; of two families, that of the backbone counts. A searched one holds a list
    `searched`, {backbone: what was searched, values: {dataset: {key: value}}} each. A user's own (<paths.results>/tuned) wins
    over the suite's for the datasets it lists.
    Raises: UserError for a setting that is none, and for a searched table that does not say on which backbone.
    """
    kind, method, dataset = cfg["tuned"]["name"], cfg["method"]["name"], cfg["dataset"].get("name")
    if kind == "none":
        return None
    suite, backbone = cfg["dataset"]["suite"], cfg["backbone"]
    family = "swin" if str(backbone["timm_name"]).startswith("swin") else "vit"
    folders = (Path(str(cfg["paths"]["results"])) / "tuned", packaged("conf") / "tuned")
    tables = [(path, table) for folder in folders if (table := _table(path := table_path(folder, kind, method)))]
    for path, table in tables:
        part = _part(path, table, kind, cfg, family)
        setting, every, lacks = ((part.get(key) or {}).get(suite) for key in ("settings", "every", "lacks"))
        values = _of_shots(part.get(dataset), cfg["dataset"].get("shots"))
        if values is not None or (setting is not None and not _lists(part, suite)):
            _check_setting(path, setting or {})
            return TunedEntry(kind, table.get("source"), {**(every or {}), **(values or {})}, setting or {}, lacks, None)
    on = f"a {family}" if kind == PAPER else _backbone_text(backbone_facts(backbone))
    what = f"no values for {dataset}{_shots_text(cfg)} on {on}" if tables else f"no table for method={method}"
    there = [_backbone_text(part["backbone"]) for _, table in tables for part in table.get("searched", ())]
    what += f" (they are for {', '.join(dict.fromkeys(there))})" if there else ""
    return TunedEntry(kind, None, {}, {}, None, what)


def backbone_facts(backbone: Any) -> dict[str, Any]:
    """What of a backbone a search holds for: its architecture and its weights; its name is for people."""
    arguments = backbone.get("model_args") or {}
    arguments = OmegaConf.to_container(arguments) if isinstance(arguments, DictConfig) else dict(arguments)
    return {"name": str(backbone["name"]), "timm_name": str(backbone["timm_name"]), "model_args": arguments,
            "weights": str(backbone["weights"])}  # fmt: skip


def same_backbone(first: Mapping[str, object], second: Mapping[str, object]) -> bool:
    """Whether two `backbone_facts` are of one backbone, whatever it is called."""
    return all(first.get(key) == second.get(key) for key in ("timm_name", "model_args", "weights"))


def _part(path: Path, table: Mapping[Any, Any], kind: str, cfg: DictConfig | Mapping[str, Any], family: str) -> Mapping[Any, Any]:
    """What of a table is for the configuration's backbone."""
    if kind == PAPER:
        own: Mapping[Any, Any] = table if table.get("family", family) == family else table.get(family, {})
        return own
    if "searched" not in table:
        raise UserError(f"{path} does not say which backbone and weights its values were found on; write it anew with "
                        f"`karst-bench tune method={cfg['method']['name']} dataset=...`, or move it away")  # fmt: skip
    wanted = backbone_facts(cfg["backbone"])
    return next((part["values"] for part in table["searched"] if same_backbone(part["backbone"], wanted)), {})


def _backbone_text(facts: Mapping[str, object]) -> str:
    weights = str(facts["weights"])
    return f"{facts['name']} ({'random' if weights == 'none' else weights} weights)"


def _check_setting(path: Path, setting: Mapping[str, str]) -> None:
    for key, name in setting.items():
        valid = CHOICES["normalization"] if key == "normalization" else options(key)
        if name not in valid:
            raise UserError(f"{path}: settings choose {key}={name[:80]}, which there is not{nearest(name, valid)}")


def setting_words(entry: TunedEntry | None, given: set[str]) -> list[str]:
    """The choices of an entry's setting as overrides, but for those that the command line made."""
    return [f"{key}={value}" for key, value in (entry.setting if entry else {}).items() if key not in given]


def with_tuned(cfg: DictConfig, entry: TunedEntry | None, given: set[str]) -> DictConfig:
    """Puts an entry's values below the keys named on the command line, and into cfg.tuned what was done and what was not.

    cfg is composed with `setting_words` already. tuned.said holds the lines that a run says at its start, dry_run at its end,
    and a record among its notes.
    """
    if entry is None:
        return cfg
    applied = _applied(entry, given)
    OmegaConf.set_struct(cfg, False)
    for key, value in applied.items():
        if OmegaConf.select(cfg, key, default=UNKNOWN) is UNKNOWN:
            _check_known(key, entry, cfg)
        OmegaConf.update(cfg, key, value)
    cfg.tuned = _done(entry, applied, given)
    OmegaConf.set_struct(cfg, True)
    return cfg


def with_searched(config: Mapping[str, Any], kind: str, given: set[str]) -> dict[str, Any]:
    """A resolved configuration of tuned=none with what a search found for it, as tuned=KIND composes it where nothing else is
    derived from a value that was searched. Raises: UserError as `tuned_entry`."""
    entry = tuned_entry({**config, "tuned": {"name": kind}})
    if entry is None:
        return dict(config)
    applied, found = _applied(entry, given), dict(config)
    for key, value in applied.items():
        if not _holds(config, key.split(".")):
            _check_known(key, entry, config)
        found = _with(found, key.split("."), value)
    return found | {"tuned": _done(entry, applied, given)}


def _holds(config: Any, path: Sequence[str]) -> bool:
    return not path or (isinstance(config, Mapping) and path[0] in config and _holds(config[path[0]], path[1:]))


def _with(config: Mapping[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    """The configuration with a value at a path; what lies beside the path is shared."""
    key, *rest = path
    old = config.get(key)
    return {**config, key: _with(old if isinstance(old, Mapping) else {}, rest, value) if rest else value}


def _applied(entry: TunedEntry, given: set[str]) -> dict[str, object]:
    """What of an entry's values the command line left to it."""
    return {key: value for key, value in entry.values.items() if not _named(key, given)}


def _check_known(key: str, entry: TunedEntry, cfg: DictConfig | Mapping[str, Any]) -> None:
    """Raises: UserError for a key of a method or recipe, which the configuration has not."""
    if key.startswith(("method.", "recipe.")):
        method = cfg["method"]["name"]
        raise UserError(f"tuned={entry.kind}: its table sets {key}, which method={method} and a recipe do not have")


def _done(entry: TunedEntry, applied: Mapping[str, object], given: set[str]) -> dict[str, object]:
    """cfg.tuned: what was done and what was not."""
    return {"name": entry.kind, "source": entry.source, "values": dict(applied), "listed": entry.missing is None,
            "said": _said(entry, given)}  # fmt: skip


def _named(key: str, given: set[str]) -> bool:
    """Whether the words gave this key, or a part of its value by a longer name."""
    return key in given or ("." in key and any(word.startswith(f"{key}.") for word in given))


def _said(entry: TunedEntry, given: set[str]) -> list[str]:
    kind = f"tuned={entry.kind}"
    if entry.missing is not None:
        return [f"{kind}: {entry.missing}; the defaults run"]
    whole = {**entry.setting, **entry.values}
    own = [key for key in whole if _named(key, given)]
    lines = []
    if own:
        wished = ", ".join(f"{key}={whole[key]}" for key in own)
        lines.append(f"{kind}: the command line chose {', '.join(own)}; the table has {wished}")
    if entry.kind == "paper" and not entry.setting:
        lines.append(f"{kind}: {', '.join(entry.values)} alone are the table's; it names no {', '.join(SETTING)}")
    if entry.lacks:
        lines.append(f"{kind}: not the whole setting: {entry.lacks}")
    return lines


def _lists(part: Mapping[str, object], suite: str) -> bool:
    """Whether a table has values for datasets of this suite; then one that is not among them has no setting either."""
    return any(str(name).startswith(f"{suite}/") for name in part)


def _of_shots(entry: Any, shots: int | None) -> Mapping[str, object] | None:
    """An entry's values; of one that is keyed by shots, those of this number, None where it has none."""
    if isinstance(entry, Mapping) and entry and all(isinstance(key, int) for key in entry):
        entry = entry.get(shots)
    return entry if isinstance(entry, Mapping) else None


def _shots_text(cfg: DictConfig | Mapping[str, Any]) -> str:
    shots = cfg["dataset"].get("shots")
    return "" if shots is None else f" at {shots} shot{'s' if shots != 1 else ''}"


def _table(file: Path) -> Mapping[Any, Any]:
    """The entries of a table, {} without the file. Raises: UserError for one that is no table."""
    if not file.is_file():
        return {}
    try:
        return read_table(file)
    except (OSError, ValueError, TypeError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{file} is no table of tuned values: {said}") from error
