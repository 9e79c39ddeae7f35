"""tuned=paper, tuned=ours: every table names datasets and keys that exist, with values that its method takes."""

import pytest
from omegaconf import OmegaConf

from karst_bench.config.compose import compose
from karst_bench.config.option_files import config_dir, options
from karst_bench.engine.recipe import Recipe
from karst_bench.methods.build import build_methods

TABLES = sorted((config_dir() / "tuned").glob("*/*.yaml"))
FAMILIES = ("vit", "swin")


def rows(path):
    """(family, dataset, {key: value}) of a table: those of its own family at the top, another's under its name."""
    table = OmegaConf.to_container(OmegaConf.load(path))
    for name, values in table.items():
        if name in FAMILIES:
            yield from ((name, dataset, own) for dataset, own in values.items() if dataset != "provenance")
        elif name not in ("source", "family", "provenance"):
            yield table["family"], name, values


def test_the_sheets_are_there():
    paper = {path.stem for path in TABLES if path.parent.name == "paper"}
    assert paper >= {"fact_tk", "fact_tt", "ssf", "dtl", "dtl_plus", "vpt_deep"}
    assert {path.parent.name for path in TABLES} <= set(options("tuned"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_table(path, settings):
    table = OmegaConf.load(path)
    assert path.read_text().startswith(f"# python run.py method={path.stem} ")
    assert len(table.source) > 20 and table.family in FAMILIES
    datasets, chosen = set(options("dataset")), OmegaConf.create(settings(f"method={path.stem}"))
    entries = list(rows(path))
    assert path.parent.name != "paper" or len(entries) % 19 == 0, "a VTAB table holds all tasks"
    for _, dataset, values in entries:
        assert dataset in datasets
        for key, value in values.items():
            assert OmegaConf.select(chosen, key, default="none such") != "none such", f"{dataset}: {key}"
            OmegaConf.update(chosen, key, value)
        current = OmegaConf.to_container(chosen)
        build_methods(current)
        Recipe(**current["recipe"])


def test_values_reach_the_run_below_the_command_line():
    cfg = compose(["method=fact_tk", "dataset=vtab/svhn", "tuned=paper"])
    assert (cfg.method.r, cfg.method.s) == (32, 100.0) and "FacT" in cfg.tuned.source
    cfg = compose(["method=fact_tk", "dataset=vtab/svhn", "tuned=paper", "method.s=3"])
    assert (cfg.method.r, cfg.method.s) == (32, 3.0)


def test_an_unlisted_dataset_keeps_the_defaults():
    cfg = compose(["method=fact_tk", "tuned=paper"])
    assert not cfg.tuned.listed and cfg.method.r == 32
