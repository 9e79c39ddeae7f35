"""Composition: every option composes, defaults follow the dataset, and bad input names the nearest valid name."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
import yaml

from karst_bench.config.compose import compose, settings_of
from karst_bench.config.option_files import config_dir, options
from karst_bench.config.settings import Settings, resolve
from karst_bench.config.tuned import backbone_facts
from karst_bench.errors import UserError
from karst_bench.methods.build import build_method, build_methods


@pytest.mark.parametrize("dataset", [name for name in options("dataset") if name != "folder"])
def test_every_dataset_composes_with_its_own_backbone_and_recipe(dataset: str) -> None:
    settings = settings_of([f"dataset={dataset}"]).as_config()
    suite = dataset.partition("/")[0]
    backbone, suite_key = ("vit_mini", "mini") if suite == "mini" else ("vit_b16", "vtab")
    assert settings["dataset"]["name"] == dataset
    assert settings["backbone"]["name"] == backbone
    assert settings["suite"] == suite_key
    assert settings["recipe"]["name"].startswith({"vtab": "petl100", "fgvc": "petl100", "fewshot": "fs_dtl", "mini": "mini"}[suite])
    assert settings["protocol"]["name"] == ("best_val" if settings["dataset"]["shots"] or suite == "fgvc" else "last")


def test_the_29_published_sets_are_there() -> None:
    names = options("dataset")
    assert sum(name.startswith("vtab/") for name in names) == 19
    assert sum(name.startswith("fewshot/") for name in names) == 5
    assert sum(name.startswith("fgvc/") for name in names) == 5


@pytest.mark.parametrize("group", ["backbone", "recipe", "protocol", "extra", "tuned", "tracker"])
def test_every_option_of_a_group_composes(group: str) -> None:
    for option in options(group):
        if "/" not in option:
            assert getattr(settings_of([f"{group}={option}"]), group) is not None


def test_the_default_run_is_karst_on_digits() -> None:
    settings = settings_of()
    assert (settings.method["name"], settings.extra["name"]) == ("karst", "rst")
    assert (settings.dataset["name"], settings.backbone["name"]) == ("mini/digits", "vit_mini")


def test_the_command_line_wins_over_what_a_method_brings() -> None:
    assert compose(["method=karst", "extra=none"]).extra.name == "none"
    assert compose(["method=full", "recipe.lr=0.5"]).recipe.lr == 0.5
    assert compose(["dataset=vtab/cifar100", "backbone=swin_b"]).backbone.name == "swin_b"


def test_several_trackers_may_watch_one_run() -> None:
    assert {"wandb", "tensorboard"} <= set(compose(["tracker=[wandb,tensorboard]"]).tracker)


def test_a_second_method_gets_a_node_of_its_own() -> None:
    cfg = compose(["method=lora", "also=vpt_deep", "also.p=3"])
    assert (cfg.method.name, cfg.also.name, cfg.also.p) == ("lora", "vpt_deep", 3)
    assert [method.name for method in build_methods(resolve(cfg).as_config())] == ["lora", "vpt_deep"]


def test_another_timm_name_is_another_backbone() -> None:
    backbone = settings_of(["dataset=vtab/dtd", "backbone.timm_name=vit_small_patch16_224.augreg_in21k"]).backbone
    assert backbone["name"] == backbone["timm_name"] == "vit_small_patch16_224.augreg_in21k"
    assert backbone["mean"] is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sed=3"], ["sed", "did you mean seed"]),
        (["method.Nn=3"], ["method.Nn", "method.N", "share_c"]),
        (["recipe.lrr=1"], ["recipe.lrr", "recipe.lr"]),
        (["method=kars"], ["kars", "did you mean karst", "lora"]),
        (["dataset=cifar100"], ["did you mean vtab/cifar100", "mini/digits"]),
        (["dataset=vtab/cifar10"], ["did you mean vtab/cifar100"]),
        (["also=vpt_dep"], ["did you mean vpt_deep"]),
        (["backbone=vit_b61"], ["vit_b61", "vit_b16"]),
        (["seed=abc"], ["seed", "abc", "Integer"]),
        (["seed=-1"], ["seed=-1", "at least 0"]),
        (["suite=mni"], ["suite=mni", "did you mean mini"]),
        (["method=lora", "method.rank=4"], ["method.rank", "r, s, dropout, sites"]),
        (["action=desribe"], ["action=desribe", "describe"]),
        (["precision=fp16"], ["bf16", "fp32"]),
        (["method=[lora,karst]"], ["also=vpt_deep", "-m method=lora,karst"]),
        (["seed=1,2"], ["-m"]),
        (["also=full"], ["also=full", "method=full"]),
        (["dataset=fewshot/pets", "dataset.shots=3"], ["shots=3", "16"]),
    ],
)
def test_bad_input_is_told_in_one_line_with_the_remedy(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        settings_of(overrides)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [("lora", "r", 0), ("karst", "N", -1), ("karst", "sigma", float("nan")), ("lora", "dropout", 1.5),
     ("dtl", "r", {"vit": 0, "swin": 4})],
)
def test_a_value_that_no_method_can_take_is_refused(method: str, key: str, value: object) -> None:
    values = settings_of([f"method={method}"]).method
    assert key in values
    with pytest.raises(UserError, match=rf"method\.{key}="):
        build_method("method", values | {key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("N", None), ("N", 1.5), ("N", True), ("sigma", [1]), ("r", "eight"), ("sites", "qkv")]
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    values = settings_of(["method=karst"]).method | {key: value}
    with pytest.raises(UserError, match=rf"method\.{key}="):
        build_method("method", values)


@pytest.mark.parametrize("target", ["os.system", "karst_bench.cli.main", "karst_bench.methods.karst.divisors", ""])
def test_only_the_suites_own_methods_are_built(target: str) -> None:
    with pytest.raises(UserError, match="_target_"):
        build_method("method", {"_target_": target, "name": "x"})


def test_every_yaml_opens_with_the_command_that_runs_it() -> None:
    for path in sorted(config_dir().rglob("*.yaml")):
        if path.parts[-2] in ("paper", "ours") or "space" in path.parts or path.name.startswith("_"):
            continue
        first = next(line for line in path.read_text().splitlines() if not line.startswith("# @package"))
        command = first.removeprefix("# ").partition("#")[0].strip()
        assert command.startswith(("python run.py", "python scripts/")), f"{path.relative_to(config_dir())}: {first}"


def test_tuned_values_stand_below_the_command_line(tmp_path: Path) -> None:
    table = tmp_path / "tuned" / "paper" / "lora.yaml"
    table.parent.mkdir(parents=True)
    table.write_text("source: a test\nmini/digits: {method.r: 2, recipe.lr: 0.25}\n")
    tuned = settings_of(["method=lora", "tuned=paper", "recipe.lr=0.125", f"paths.results={tmp_path}"])
    assert (tuned.method["r"], tuned.recipe.lr) == (2, 0.125)
    assert tuned.tuned["values"] == {"method.r": 2} and tuned.tuned["source"] == "a test" and tuned.tuned["listed"]


def test_what_a_user_found_comes_before_what_is_committed(tmp_path: Path) -> None:
    table = tmp_path / "tuned" / "ours" / "lora.yaml"
    table.parent.mkdir(parents=True)
    words = ["method=lora", "tuned=ours", f"paths.results={tmp_path}"]
    searched = {"backbone": backbone_facts(compose().backbone), "values": {"mini/count": {"recipe.lr": 0.25}}}
    table.write_text(yaml.safe_dump({"source": "my search", "searched": [searched]}))
    own, committed = (compose([*words, f"dataset=mini/{task}"]) for task in ("count", "location"))
    assert (own.recipe.lr, own.tuned.source) == (0.25, "my search")
    listed = yaml.safe_load((config_dir() / "tuned" / "ours" / "lora.yaml").read_text())
    of_vit = next(part["values"] for part in listed["searched"] if part["backbone"]["name"] == "vit_mini")
    assert committed.recipe.lr == of_vit["mini/location"]["recipe.lr"] and committed.tuned.source == listed["source"]


@pytest.mark.parametrize("other", ["backbone=vit_b16", "backbone=swin_b", "backbone.weights=none", "backbone.model_args.depth=4"])
def test_what_was_searched_on_one_backbone_steers_no_other(other: str) -> None:
    words = ["method=lora", "dataset=mini/count"]
    cfg, plain = compose([*words, other, "tuned=ours"]), compose([*words, other])
    assert cfg.recipe == plain.recipe and cfg.method == plain.method and not cfg.tuned.listed
    assert "they are for vit_mini (pretrained weights)" in cfg.tuned.said[0]
    assert compose([*words, "tuned=ours"]).recipe.lr != plain.recipe.lr


def test_a_searched_table_that_names_no_backbone_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "tuned" / "ours" / "lora.yaml"
    table.parent.mkdir(parents=True)
    table.write_text("source: an older search\nfamily: vit\nmini/count: {recipe.lr: 0.25}\n")
    with pytest.raises(UserError, match="which backbone"):
        compose(["method=lora", "dataset=mini/count", "tuned=ours", f"paths.results={tmp_path}"])


def test_tuned_values_are_those_of_the_backbones_family() -> None:
    words = ["method=dtl", "dataset=vtab/svhn", "tuned=paper"]
    vit, swin = (compose([*words, f"backbone={backbone}"]) for backbone in ("vit_b16", "swin_b"))
    assert (vit.recipe.lr, swin.recipe.lr) == (8e-3, 3e-3)  # DTL, the svhn rows of ViT and Swin


def test_the_types_and_the_file_name_the_same_keys() -> None:
    assert {field.name for field in fields(Settings)} == set(compose().keys())


def test_settings_are_frozen_and_plain_data_comes_back() -> None:
    settings = settings_of(["method=karst"])
    with pytest.raises(TypeError, match="replace"):
        settings.method["N"] = 3
    with pytest.raises(TypeError, match="replace"):
        settings.backbone["model_args"].update(depth=1)
    with pytest.raises(FrozenInstanceError):
        settings.seed = 1  # type: ignore[misc]
    config = settings.as_config()
    config["method"]["N"] = 3
    assert settings.method["N"] == 2 and settings.replace(seed=4).seed == 4
    assert type(config["recipe"]) is dict and config["recipe"]["lr"] == settings.recipe.lr


@pytest.mark.parametrize(("word", "said"), [("recipe.lr=abc", "recipe.lr='abc'"), ("recipe.epochs=0", "at least 1"),
                                            ("+recipe.lrs=1", "recipe.lrs|lrs"), ("threads=0", "threads=0")])  # fmt: skip
def test_a_bad_value_is_told(word: str, said: str) -> None:
    """Before torch is imported: tests/cli/test_start.py."""
    with pytest.raises(UserError, match=said):
        settings_of([word])


def test_a_plugin_folder_brings_a_method_and_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine").mkdir(parents=True)
    yaml = (config_dir() / "method" / "lora.yaml").read_text()
    (tmp_path / "conf" / "method" / "made_up.yaml").write_text(yaml.replace("name: lora", "name: made_up"))
    digits = (config_dir() / "dataset" / "mini" / "digits.yaml").read_text()
    (tmp_path / "conf" / "dataset" / "mine" / "set.yaml").write_text(digits.replace("mini/digits", "mine/set"))
    monkeypatch.setenv("KARST_BENCH_PLUGINS", str(tmp_path))
    settings = settings_of(["method=made_up", "dataset=mine/set", "also=none"])
    assert (settings.method["name"], settings.dataset["name"]) == ("made_up", "mine/set")
    assert "made_up" in options("method") and "mine/set" in options("dataset")
    monkeypatch.setenv("KARST_BENCH_PLUGINS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no such plug-in"):
        settings_of([])


@pytest.mark.parametrize("word", ["protocol.train=fit", "protocol.checks=val", "protocol.final=val"])
def test_a_named_protocol_keeps_its_fields(word):
    with pytest.raises(UserError, match="needs another name"):
        compose(["dataset=mini/digits", word])
    assert compose(["dataset=mini/digits", word, "protocol.name=mine"]).protocol.name == "mine"
