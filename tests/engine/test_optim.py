"""The schedule against literal values, weight-decay groups, and recipes that cannot be."""

import math

import pytest
import torch
from torch import nn

from karst_bench.engine.optim import Schedule, build_optimizer, param_groups
from karst_bench.errors import UserError


def rates(recipe, steps_per_epoch=1):
    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(param_groups(list(layer.named_parameters()), [], recipe), recipe)
    schedule = Schedule(optimizer, recipe, steps_per_epoch)
    out = []
    for step in range(recipe.epochs * steps_per_epoch):
        schedule.set(step // steps_per_epoch, step)
        out.append(schedule.lr)
    return out


def test_cooldown_keeps_the_floor(recipe):
    lr = rates(recipe(lr=1e-3, epochs=110, cooldown=0.1, warmup_lr=1e-5, min_lr=1e-4, per_step=False))
    expected = {0: 1e-5, 1: 1e-5, 2: 1.09e-4, 11: 9.78e-4, 99: 1.009e-4}
    for epoch, value in expected.items():
        assert lr[epoch] == pytest.approx(value, rel=1e-3), epoch
    assert lr[101:110] == [1e-4] * 9


def test_a_rate_below_the_floor_never_rises(recipe):
    """A search may ask for an lr under the recipe's warm-up and floor: it then stays where it is."""
    assert set(rates(recipe(lr=2e-6, epochs=10, warmup=0.2, warmup_lr=1e-5, min_lr=1e-5, cooldown=0.1))) == {2e-6}


@pytest.mark.parametrize("per_step", [True, False])
def test_short_runs_move_per_step_without_lag(recipe, per_step):
    lr = rates(recipe(lr=1.0, epochs=4, warmup=0.1, warmup_lr=0.1, min_lr=0.0, per_step=per_step), steps_per_epoch=5)
    assert lr[:2] == [pytest.approx(0.1), pytest.approx(0.55)]
    assert lr[2] == pytest.approx(0.5 * (1 + math.cos(math.pi * 2 / 20)))
    assert lr[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 19 / 20)))


def test_a_rate_of_epochs_does_not_care_how_many_steps_they_have(recipe):
    """Half a cosine over 100 epochs: all steps of epoch 50 run at the middle, of epoch 99 near the floor."""
    lr = rates(recipe(lr=1.0, epochs=100, warmup=0.0, min_lr=0.0, lag=0, per_step=False), steps_per_epoch=3)
    assert lr[150:153] == [pytest.approx(0.5)] * 3 and lr[0] == 1.0
    assert lr[297:] == [pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))] * 3


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_optimiser_is_the_recipes(recipe, optimiser):
    """Two steps with gradient 1 written out: SGD moves by lr, then by lr (1 + momentum); AdamW by lr each."""
    p = nn.Parameter(torch.zeros(1))
    made = build_optimizer(param_groups([("p", p)], [], recipe()), recipe(optimiser=optimiser, lr=0.1, momentum=0.5, wd=0.0))
    assert type(made) is {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimiser]
    for group in made.param_groups:
        group["lr"] = 0.1
    for _ in range(2):
        p.grad = torch.ones(1)
        made.step()
    assert p.item() == pytest.approx(-0.1 - 0.1 * (1.5 if optimiser == "sgd" else 1.0), rel=1e-5)


def test_one_dimensional_tensors_do_not_decay(recipe):
    named = list(nn.Linear(3, 2).named_parameters())
    groups = param_groups(named, [], recipe(wd=0.5))
    assert {g["params"][0].ndim: g["weight_decay"] for g in groups} == {2: 0.5, 1: 0.0}


@pytest.mark.parametrize(
    ("decay_1d", "decayed"),
    [("none", {"site.weight", "head.weight"}), ("all", {"site.weight", "site.bias", "head.weight", "head.bias"}),
     ("all_but_head", {"site.weight", "site.bias", "head.weight"})],
)  # fmt: skip
def test_a_recipe_says_which_vectors_decay(recipe, decay_1d, decayed):
    net = nn.ModuleDict({"site": nn.Linear(3, 2), "head": nn.Linear(2, 2)})
    named = list(net.named_parameters())
    groups = param_groups(named, [], recipe(wd=0.5, decay_1d=decay_1d))
    found = {id(p) for group in groups for p in group["params"] if group["weight_decay"] == 0.5}
    assert {name for name, p in named if id(p) in found} == decayed


def test_a_method_may_set_rate_and_decay_and_a_later_default_does_not_undo_it(recipe, plain):
    layer = nn.Linear(3, 2)
    named = list(layer.named_parameters())

    class Own(type(plain)):
        def param_groups(self, named):
            return [{"params": [layer.bias], "lr": 1e-3, "weight_decay": 0.25}]

    class Default(type(plain)):
        def param_groups(self, named):
            return [{"params": [p for _, p in named if p.ndim == 1], "weight_decay": 0.0}]

    groups = param_groups(named, [Own(), Default()], recipe(lr=1e-2, wd=0.5))
    bias = next(g for g in groups if g["params"][0] is layer.bias)
    assert (bias["lr_scale"], bias["weight_decay"]) == (pytest.approx(0.1), 0.25)
    optimizer = build_optimizer(groups, recipe(lr=1e-2))
    Schedule(optimizer, recipe(lr=1e-2, warmup=0.0, epochs=4), 5).set(0, 0)
    assert [g["lr"] for g in optimizer.param_groups] == [pytest.approx(1e-2), pytest.approx(1e-3)]


def test_a_method_cannot_list_a_frozen_tensor(recipe, plain):
    class Wrong(type(plain)):
        def param_groups(self, named):
            return [{"params": [nn.Parameter(torch.zeros(1))]}]

    with pytest.raises(ValueError, match=r"Wrong.*not trainable"):
        param_groups([], [Wrong()], recipe())


@pytest.mark.parametrize(
    "change",
    [
        {"optimiser": "lion"},
        {"epochs": 0},
        {"epochs": 2.5},
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr": "high"},
        {"warmup": 1.0},
        {"per_step": 1},
        {"batch": True},
        {"lag": 2},
        {"decay_1d": "some"},
        {"drop_last": 1},
    ],
)
def test_an_impossible_recipe_names_the_key(recipe, change):
    with pytest.raises(UserError, match=f"recipe.{next(iter(change))}"):
        recipe(**change)
