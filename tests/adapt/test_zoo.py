"""Any method on any of timm's ViT-like and Swin-like models: it works to the last check, or one sentence says why not."""

from pathlib import Path

import pytest
import timm
import torch
from zoo import Case, attach, check

from benchmarks.backbones import MODULES, TINY, build, images_for, one_of_each_class, structure, tiny_of
from karst_bench.adapt.timm_sites import input_size
from karst_bench.config.option_files import options
from karst_bench.errors import UserError
from scripts.pages import backbones

METHODS = [name for name in options("method") if name != "none"]
# some verbs on each kind of block and read-out, and what timm's structure alone forbids (the sentence has these words); the slow
# mark has all methods
FEW: dict[str, dict[str, str]] = {
    "ViT, attention pooling with a class token": {"ssf": "", "vpt_deep": "", "dtl_plus": ""},
    "ViT, post-norm": {"lora_all": "", "ssf": "", "adaptformer": ""},
    "ViT, parallel blocks": {"lora_all": "", "bitfit": "", "ssf": "norm2", "adaptformer": "in parallel"},
    "DeiT, distilled": {"bitfit": "", "dtl_plus": ""},
    "ViT on a ResNet": {"lora_all": "", "vpt_deep": ""},
    "EVA-02, q, k and v apart": {"lora_all": "", "bitfit": "", "adaptformer": ""},
    "DINOv3": {"ssf": "", "vpt_deep": ""},
    "BEiT": {"bitfit": "", "dtl_plus": "", "vpt_deep": "a position bias for each pair of patches"},
    "Swin V2": {"lora_all": "", "adaptformer": "", "vpt_deep": "attention in this model works in windows"},
    "Hiera": {"ssf": "", "adaptformer": "", "vpt_deep": "mask units", "dtl_plus": "mask units"},
}
LEAST = {"linear", "lora", "bitfit", "full"}  # work on every model that is read
UNKNOWN = ("Swin V2 CR", "SAM", "NaFlex", "CaiT")


@pytest.mark.parametrize("label", FEW)
def test_a_few_methods_on_models_of_every_kind(label, tmp_path):
    for name, why in FEW[label].items():
        case = Case(build(label), images_for(label))
        if not why:
            check(case, name, tmp_path / "adapter.safetensors")
        else:
            with pytest.raises(UserError, match=why):
                check(case, name, tmp_path / "adapter.safetensors")


@pytest.mark.parametrize("label", UNKNOWN)
def test_a_foreign_model_is_refused_by_name_and_says_what_is_missing(label):
    net = build(label)
    with pytest.raises(UserError, match=rf"attached to a timm.*{type(net).__name__}: .* is not described in"):
        check(Case(net, images_for(label)), "lora", None)


@pytest.mark.parametrize("label", FEW)
def test_the_size_that_a_model_takes_is_known(label):
    assert input_size(build(label, device="meta")) == tuple(images_for(label).shape[-2:])


@pytest.mark.parametrize(("name", "method", "why"), [
    ("vit_5b_patch16_sapiens2", "heat", "several heads of q share one of v"),
    ("vit_5b_patch16_sapiens2", "ssf", "no qkv of their own"),
    ("vit_dpwee_patch16_reg1_gap_256", "ssf", "no proj of their own"),
    ("vit_base_mci_224", "sparse_tuning", "has one block"),
])  # fmt: skip
def test_a_rare_structure_is_refused_with_what_it_lacks(name, method, why):
    if not timm.is_model(name):
        pytest.skip("this timm does not have it yet")
    case = Case(tiny_of(name), images_for(name))
    with pytest.raises(UserError, match=rf"{method} cannot be attached to this .*{why}"):
        attach(case, method)


@pytest.mark.slow
@pytest.mark.parametrize("label", [label for label in TINY if label not in UNKNOWN])
def test_every_method_on_every_model(label, tmp_path):
    worked = []
    for name in METHODS:
        try:
            check(Case(build(label), images_for(label)), name, tmp_path / "adapter.safetensors")
            worked.append(name)
        except UserError:
            continue
    assert LEAST | {"karst"} <= set(worked), worked


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_every_name_that_timm_lists(module, tmp_path):
    """A tiny model of each structure that a module's names have, with every class of method: it works to the last check, or is
    refused in one sentence. What is read of no model is refused as a whole."""
    seen, unread = {}, []
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            net = timm.create_model(name)
        try:
            seen.setdefault(structure(net), name)
        except UserError as error:
            assert "\n" not in str(error) and type(net).__name__ in str(error)
            unread.append(name)
    assert seen or len(unread) == len(timm.list_models(module=module)), "a module of one class"
    for name in seen.values():
        worked = set()
        for method in one_of_each_class():
            try:
                check(Case(tiny_of(name), images_for(name)), method, tmp_path / "adapter.safetensors")
                worked.add(method)
            except UserError:
                continue
            except Exception as error:
                raise AssertionError(f"{method} on {name}: {type(error).__name__}: {error}") from error
        assert worked >= LEAST, (name, worked)


@pytest.mark.slow
def test_the_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "backbones.md"
    assert page.read_text() == backbones.render(), "run `python scripts/docs_backbones.py`"
