"""Every table of tuned=ours is one that a configuration can be composed with; one of others is checked to the last value."""

import pytest
import yaml

from karst_bench.config.compose import settings_of
from karst_bench.errors import UserError
from karst_bench.files import packaged

TABLES = packaged("conf") / "tuned" / "ours"
OURS = sorted(path.stem for path in TABLES.iterdir() if path.suffix == ".yaml")


@pytest.mark.parametrize("method", OURS)
def test_a_searched_table_is_used_on_its_backbone(method: str):
    table = yaml.safe_load((TABLES / f"{method}.yaml").read_text())
    on_vit = next(part for part in table["searched"] if part["backbone"]["name"] == "vit_mini")["values"]
    for dataset in {"mini/digits", "mini/fs_glyphs"} & on_vit.keys():
        settings = settings_of([f"method={method}", f"dataset={dataset}", "backbone=vit_mini", "tuned=ours"])
        assert settings.tuned["listed"] and settings.tuned["values"] == {"recipe.lr": settings.recipe.lr} == on_vit[dataset]


TABLE = """
source: a search
searched:
- backbone: {name: vit_mini, timm_name: vit_tiny_patch16_224, weights: pretrained,
             model_args: {img_size: 32, patch_size: 8, embed_dim: 96, depth: 8, num_heads: 3}}
  values: {mini/digits: {%s}}
"""
BAD = {
    "aliases": ("recipe.lr: &a 0.1, recipe.wd: *a", "aliases"),
    "another class": ("method._target_: os.system", "method._target_ is tuned by no table"),
    "a path": ("paths.results: /tmp", "paths.results is tuned by no table"),
    "a variable": ("method.sigma: '${oc.env:HOME}'", "stands for another value"),
    "an unknown key": ("method.sigmma: 1.0", "method.sigmma, which method=karst"),
    "a mapping": ("recipe.lr: {a: 1}", "a number, a word or a list"),
}


@pytest.mark.parametrize(("values", "said"), BAD.values(), ids=BAD)
def test_a_table_of_others_sets_values_and_nothing_else(tmp_path, values, said):
    (tmp_path / "tuned" / "ours").mkdir(parents=True)
    words = ["method=karst", "dataset=mini/digits", "backbone=vit_mini", "tuned=ours", f"paths.results={tmp_path}"]
    file = tmp_path / "tuned" / "ours" / "karst.yaml"
    file.write_text(TABLE % "recipe.lr: 0.5")
    assert settings_of(words).recipe.lr == 0.5
    file.write_text(TABLE % values)
    with pytest.raises(UserError, match=said):
        settings_of(words)
