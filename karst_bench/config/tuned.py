"""Per-dataset values of a method: a paper's (tuned=paper), or what our own search found (tuned=ours)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from karst_bench.files import packaged


def table_path(folder: Path, kind: str, method: str) -> Path:
    """<folder>/<kind>/<method>.yaml, in what a user's own search found (<paths.results>/tuned) as in conf/tuned."""
    return folder / kind / f"{method}.yaml"


def with_tuned(cfg: DictConfig, given: set[str]) -> DictConfig:
    """Puts the values of tuned/<kind>/<method>.yaml, {dataset: {key: value}}, below the keys named on the command line.

    A table of the user's own (<paths.results>/tuned) wins over the suite's for the datasets it lists. An unlisted dataset keeps the
    method's defaults, which `tuned.listed` says.
    """
    kind = cfg.tuned.name
    if kind == "none":
        return cfg
    name, family = cfg.method.name, "swin" if str(cfg.backbone.timm_name).startswith("swin") else "vit"
    folders = (Path(str(cfg.paths.results)) / "tuned", packaged("conf") / "tuned")
    tables = [_table(table_path(folder, kind, name)) for folder in folders]
    parts = [table if table.get("family", family) == family else table.get(family, {}) for table in tables]
    listing = next((i for i, part in enumerate(parts) if cfg.dataset.name in part), None)
    values = parts[listing][cfg.dataset.name] if listing is not None else {}
    source = next((table["source"] for table in tables[listing or 0 :] if "source" in table), None)
    applied = {key: value for key, value in values.items() if key not in given}
    OmegaConf.set_struct(cfg, False)
    for key, value in applied.items():
        OmegaConf.update(cfg, key, value)
    cfg.tuned = {"name": kind, "source": source, "values": applied, "listed": bool(values)}
    OmegaConf.set_struct(cfg, True)
    return cfg


def _table(file: Path) -> Mapping[str, Any]:
    entries = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    assert isinstance(entries, dict)
    return {str(key): value for key, value in entries.items()}
