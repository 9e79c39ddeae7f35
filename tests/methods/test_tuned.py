"""tuned=paper, tuned=ours: every table names datasets and keys that exist, with values that its method takes."""

from functools import lru_cache

import pytest
from omegaconf import OmegaConf

from karst_bench.config.compose import compose
from karst_bench.config.option_files import config_dir, options
from karst_bench.config.settings import CHOICES, SHOTS
from karst_bench.config.tuned import SETTING, backbone_facts
from karst_bench.engine.recipe import Recipe
from karst_bench.errors import UserError
from karst_bench.methods.build import build_methods

TABLES = sorted((config_dir() / "tuned").glob("*/*.yaml"))
PAPERS = [path for path in TABLES if path.parent.name == "paper"]
SEARCHED = [path for path in TABLES if path.parent.name != "paper"]
FAMILIES = ("vit", "swin")
NOTES = ("source", "family", "provenance", "settings", "every", "lacks")


def parts(path):
    """(family, part) of a table: its own family's at the top, another's under its name."""
    table = OmegaConf.to_container(OmegaConf.load(path))
    yield table["family"], {name: values for name, values in table.items() if name not in FAMILIES}
    yield from ((name, table[name]) for name in FAMILIES if name in table)


def rows(path):
    """(family, dataset, {key: value}) of a table, one for each number of shots where it is keyed by them."""
    if path in SEARCHED:
        for part in OmegaConf.to_container(OmegaConf.load(path))["searched"]:
            yield from ((part["backbone"]["name"], dataset, values) for dataset, values in part["values"].items())
        return
    for family, part in parts(path):
        for name, values in part.items():
            if name not in NOTES:
                keyed = set(values) <= set(SHOTS)
                yield from ((family, name, own) for own in (values.values() if keyed else [values]))
        yield from ((family, None, own) for own in part.get("every", {}).values())


def test_the_sheets_are_there():
    paper = {path.stem for path in TABLES if path.parent.name == "paper"}
    assert paper >= {"fact_tk", "fact_tt", "ssf", "dtl", "dtl_plus", "vpt_deep", "convpass", "repadapter", "adapter_plus"}
    assert {path.parent.name for path in TABLES} <= set(options("tuned"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_table(path, settings):
    table = OmegaConf.load(path)
    assert path.read_text().startswith(f"# python run.py method={path.stem} ")
    assert len(table.source) > 20 and (path in SEARCHED or table.family in FAMILIES)
    datasets, chosen = set(options("dataset")), OmegaConf.create(settings(f"method={path.stem}"))
    entries = list(rows(path))
    vtab = [dataset for _, dataset, _ in entries if str(dataset).startswith("vtab/")]
    assert path.parent.name != "paper" or len(vtab) % 19 == 0, "a VTAB table holds all tasks"
    for _, dataset, values in entries:
        assert dataset is None or dataset in datasets
        for key, value in values.items():
            assert OmegaConf.select(chosen, key, default="none such") != "none such", f"{dataset}: {key}"
            OmegaConf.update(chosen, key, value)
        current = OmegaConf.to_container(chosen)
        build_methods(current)
        Recipe(**current["recipe"])


@lru_cache
def facts_of(name, weights):
    return backbone_facts(compose([f"backbone={name}", f"backbone.weights={weights}"]).backbone)


@pytest.mark.parametrize("path", SEARCHED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_searched_table_names_backbones_as_they_are(path):
    for part in OmegaConf.to_container(OmegaConf.load(path))["searched"]:
        assert part["backbone"] == facts_of(part["backbone"]["name"], part["backbone"]["weights"])
        searches = [value for key, value in part.items() if key.endswith("provenance")]
        assert searches
        for search in searches:
            shared = search.get("shared_with")
            assert (path.parent / f"{shared}.yaml").is_file() if shared else {"split", "epochs", "commit"} <= search.keys()


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_papers_setting_chooses_what_there_is(path):
    """Every paper's table says its recipe, backbone and protocol, for each suite that it has values of."""
    for family, part in parts(path):
        suites = {str(name).partition("/")[0] for name in part if "/" in str(name)}
        assert suites <= part["settings"].keys()
        assert {suite for key in ("every", "lacks") for suite in part.get(key, {})} <= part["settings"].keys()
        for setting in part["settings"].values():
            assert {"recipe", "backbone", "protocol"} <= setting.keys() <= set(SETTING)
            assert setting["backbone"].startswith(family)
            for key, choice in setting.items():
                assert choice in (CHOICES[key] if key in CHOICES else options(key)), f"{key}={choice}"


def test_published_values_of_some_cells():
    """Convpass, RepAdapter and DTL's few-shot runs, from the sources' files, at the first, middle and last place."""
    def of(*words):
        return compose([*words, "tuned=paper"])

    convpass = [of("method=convpass", f"dataset=vtab/{task}").method for task in ("cifar100", "caltech101", "clevr_distance")]
    assert [(method.s, method.init) for method in convpass] == [(0.1, "identity"), (1.0, "identity"), (0.1, "xavier")]
    table = OmegaConf.load(config_dir() / "tuned" / "paper" / "convpass.yaml")
    assert sum(values.get("method.init") == "xavier" for name, values in table.items() if "/" in name) == 10
    rep = [of("method=repadapter", f"dataset=vtab/{task}").method for task in ("flowers102", "smallnorb_elevation")]
    assert [(method.s, method.biases) for method in rep] == [(0.5, True), (1.0, True)]
    few = [of("method=dtl", "dataset=fewshot/aircraft", f"dataset.shots={shots}").recipe.lr for shots in SHOTS]
    assert few == [1e-3, 1e-3, 1e-3, 5e-3, 8e-3]


def test_values_reach_the_run_below_the_command_line():
    cfg = compose(["method=fact_tk", "dataset=vtab/svhn", "tuned=paper"])
    assert (cfg.method.r, cfg.method.s) == (32, 100.0) and "FacT" in cfg.tuned.source
    cfg = compose(["method=fact_tk", "dataset=vtab/svhn", "tuned=paper", "method.s=3"])
    assert (cfg.method.r, cfg.method.s) == (32, 3.0)


def test_a_paper_is_a_whole_setting():
    cfg = compose(["method=ssf", "dataset=vtab/svhn", "tuned=paper"])
    chosen = cfg.recipe.name, cfg.backbone.name, cfg.normalization, cfg.protocol.name
    assert chosen == ("ssf", "vit_b16_augreg", "model", "peek10") and cfg.recipe.lr == 1e-2
    few = compose(["method=dtl", "dataset=fewshot/cars", "dataset.shots=16", "tuned=paper"])
    assert (few.recipe.name, few.recipe.lr, few.protocol.name) == ("fs_dtl", 3e-3, "best_val")


def test_the_command_line_wins_and_the_run_says_so():
    cfg = compose(["method=ssf", "dataset=vtab/svhn", "tuned=paper", "backbone=vit_b16", "recipe.lr=0.5"])
    assert (cfg.backbone.name, cfg.recipe.name, cfg.recipe.lr, cfg.recipe.drop_path) == ("vit_b16", "ssf", 0.5, 0.0)
    said = "\n".join(cfg.tuned.said)
    assert "chose backbone, recipe.lr" in said and "backbone=vit_b16_augreg, recipe.lr=0.01" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=fact_tk", "dataset=mini/digits"], "no values for mini/digits on a vit"),
        (["method=fact_tk", "dataset=vtab/svhn", "backbone=swin_b"], "no values for vtab/svhn on a swin"),
        (["method=fact_tk", "dataset=fewshot/pets", "dataset.shots=2"], "no values for fewshot/pets at 2 shots on a vit"),
        (["method=bitfit", "dataset=vtab/svhn"], "no table for method=bitfit"),
    ],
)
def test_what_has_no_entry_is_said_and_changes_nothing(words, said):
    plain, tuned = compose(words), compose([*words, "tuned=paper"])
    assert not tuned.tuned.listed and any(said in line for line in tuned.tuned.said)
    assert all(plain[key] == tuned[key] for key in plain if key != "tuned")


def test_what_the_table_lacks_of_the_setting_is_said():
    cfg = compose(["method=vpt_deep", "dataset=vtab/dmlab", "tuned=paper"])
    assert any("not the whole setting: lr and wd" in line for line in cfg.tuned.said)


def test_a_table_of_values_alone_says_so_and_a_wrong_setting_is_refused(tmp_path):
    table = tmp_path / "tuned" / "paper" / "lora.yaml"
    table.parent.mkdir(parents=True)
    words = ["method=lora", "tuned=paper", f"paths.results={tmp_path}"]
    table.write_text("source: a test\nmini/digits: {method.r: 2}\n")
    assert any("method.r alone are the table's" in line for line in compose(words).tuned.said)
    table.write_text("source: a test\nsettings: {mini: {precision: fp32}}\nmini/digits: {method.r: 2}\n")
    with pytest.raises(UserError, match="not precision"):
        compose(words)


def test_a_datasets_own_value_wins_over_that_of_every_dataset(tmp_path):
    table = tmp_path / "tuned" / "paper" / "lora.yaml"
    table.parent.mkdir(parents=True)
    table.write_text("every: {vtab: {method.r: 3, method.s: 2.0}}\nvtab/dtd: {method.r: 5}\nvtab/svhn: {method.s: 4.0}\n")
    words = ["method=lora", "tuned=paper", f"paths.results={tmp_path}"]
    found = {task: compose([*words, f"dataset=vtab/{task}"]).method for task in ("dtd", "svhn")}
    assert {task: (method["r"], method["s"]) for task, method in found.items()} == {"dtd": (5, 2.0), "svhn": (3, 4.0)}
