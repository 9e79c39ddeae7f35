"""What a recipe says arrives in the model and in the batches of a prepared run."""

from pathlib import Path

import pytest
import torch
from timm.layers import DropPath

from karst_bench.config.compose import settings_of
from karst_bench.engine.streams import Streams
from karst_bench.run.prepare import TEST_BATCH, prepare


@pytest.fixture(scope="module")
def prepared(mini_cache: Path):
    return prepare(settings_of([
        "dataset=mini/digits", "method=lora", "backbone.weights=none", "device=cpu", f"paths.cache={mini_cache}",
        "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:4,num_heads:2}", "recipe.drop_path=0.3",
        "recipe.batch=300", "recipe.drop_last=true", "augment.cutmix=0.5", "augment.flip=0.5",
    ]))  # fmt: skip


def test_the_trunk_drops_paths_along_a_ramp_to_the_recipes_rate(prepared) -> None:
    model = prepared.model(Streams(0), {})
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert sorted({*rates}) == pytest.approx([0.1, 0.2, 0.3]) and len(rates) == 2 * 3, "none in the first of four blocks"


def test_training_alone_drops_a_last_batch_and_changes_images(prepared) -> None:
    """1000 images make three whole batches of 300; a split that is looked at is read whole, its images as they are."""
    train, test = prepared.batches("train800val200", train=True), prepared.batches("test")
    assert [len(y) for _, y in train.epoch(torch.Generator().manual_seed(0))] == [300] * 3
    sizes = [len(y) for _, y in test.epoch(None)]
    assert sum(sizes) == len(prepared.task.splits["test"]) and set(sizes[:-1]) == {TEST_BATCH}
    assert train.augment is not None and test.augment is None
    assert prepared.mixing == (0.0, 0.5)


def test_one_seed_makes_one_model_and_another_a_new_head_and_new_factors(prepared) -> None:
    """Whatever was drawn in the process before."""
    states = []
    for seed in (0, 0, 1):
        torch.rand(len(states) + 1)
        model = prepared.model(Streams(seed), {})
        states.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
    drawn = [name for name in states[0] if name == "head.weight" or name.endswith(".A")]
    assert len(drawn) == 1 + 2 * 4 and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(torch.equal(states[0][name], states[2][name]) for name in drawn)
