"""The learning rate of every published recipe, epoch by epoch, against its formula written out and literal values."""

import math

import pytest
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.optim import SGD

from karst_bench.config.option_files import options
from karst_bench.config.settings import recipe_of
from karst_bench.engine.schedule import epoch_rates, moves_per_step, rate_at

# lr; (first and last epochs: rate), epochs counted from 0. Of the formulas that the sources' schedulers compute.
TABLE = {
    "petl100": (1e-3, {0: 1e-6, 1: 1e-6, 2: 1.009e-4, 10: 9.001e-4, 11: 9.758e-4, 50: 5.205e-4, 99: 1.098e-5}),
    "petl_vit": (1e-3, {0: 1e-6, 1: 1e-6, 2: 1.009e-4, 10: 9.001e-4, 11: 9.758e-4, 50: 5.205e-4, 99: 1.098e-5}),
    "noah100": (1e-3, {0: 1e-6, 1: 1e-6, 2: 1.009e-4, 10: 9.001e-4, 11: 9.758e-4, 50: 5.205e-4, 99: 1.098e-5}),
    "karst110": (1e-3, {0: 1e-5, 1: 1e-5, 2: 1.09e-4, 10: 9.01e-4, 11: 9.78e-4, 50: 5.641e-4, 109: 1e-4}),
    "fs_karst": (1e-3, {0: 1e-5, 1: 1.09e-4, 2: 2.08e-4, 10: 9.78e-4, 11: 9.734e-4, 50: 5.5e-4, 109: 1e-4}),
    "ssf": (5e-3, {0: 1e-7, 1: 5.0009e-4, 2: 1.00008e-3, 10: 4.878e-3, 11: 4.852e-3, 50: 2.5e-3, 109: 1e-8}),
    "dtl": (1e-3, {0: 1e-7, 1: 1.001e-4, 2: 2.001e-4, 10: 9.755e-4, 11: 9.704e-4, 50: 5e-4, 109: 1e-8}),
    "fs_dtl": (1e-3, {0: 1e-7, 1: 1.001e-4, 2: 2.001e-4, 10: 9.755e-4, 11: 9.704e-4, 50: 5e-4, 109: 1e-8}),
    "fs_noah": (5e-3, {0: 1e-6, 1: 1e-6, 2: 5.009e-4, 10: 4.5e-3, 11: 4.878e-3, 50: 2.583e-3, 99: 1.492e-5}),
    "pace300": (1e-3, {0: 1e-6, 1: 1e-6, 2: 1.009e-4, 10: 9.001e-4, 11: 9.973e-4, 50: 9.363e-4, 299: 1.011e-5}),
    "vpt_sgd": (0.25, {0: 0.0, 1: 0.025, 2: 0.05, 10: 0.25, 11: 0.2499, 30: 0.2208, 50: 0.1467, 55: 0.125, 99: 7.6147e-5}),
    "adapter_plus": (1e-3, {0: 1e-5, 1: 1e-5, 2: 1.2e-4, 10: 1e-3, 11: 1e-3, 55: 5.179e-4, 99: 2.217e-6}),
}
PER_STEP = {"mini", "mini_fs"}


@pytest.fixture(scope="module")
def published(settings):
    return lambda name: recipe_of(settings(f"recipe={name}")["recipe"])


def test_every_recipe_that_moves_per_epoch_has_its_table():
    named = {name for name in options("recipe") if name not in PER_STEP}
    assert named == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_first_and_last_epochs(published, name):
    recipe = published(name)
    lr, expected = TABLE[name]
    rates = epoch_rates(recipe)
    assert (recipe.lr, moves_per_step(recipe), max(expected)) == (lr, False, recipe.epochs - 1)
    assert [rates[epoch] for epoch in expected] == pytest.approx(list(expected.values()), rel=6e-4)


@pytest.mark.parametrize("name", TABLE)
def test_every_epoch_is_the_formula(published, name):
    """Written out once more, from the sources' three formulas, as numbers of this recipe."""
    r = published(name)
    T, w = {110: (100, 10), 100: (100, 10), 300: (300, 10)}[r.epochs]
    for epoch, rate in enumerate(epoch_rates(r)):
        t = epoch if name in ("ssf", "dtl", "fs_dtl", "fs_karst", "vpt_sgd") else max(epoch - 1, 0)
        if t < w:
            expected = r.warmup_lr + t / (9 if name == "adapter_plus" else 10) * (r.lr - r.warmup_lr)
        elif name in ("vpt_sgd", "adapter_plus"):
            expected = r.min_lr + (r.lr - r.min_lr) * math.cos(math.pi * (t - 10) / 180) ** 2
        else:
            expected = r.min_lr + (r.lr - r.min_lr) * math.cos(math.pi * min(t, T) / (2 * T)) ** 2
        assert rate == pytest.approx(expected, rel=1e-9, abs=1e-15), epoch


@pytest.mark.parametrize("name", ["petl100", "karst110", "mini"])
def test_the_unshifted_form_is_timms_scheduler_bit_by_bit(published, name):
    recipe = published(name)
    units = recipe.epochs * (7 if moves_per_step(recipe) else 1)
    length = round(units / (1 + recipe.cooldown))
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=recipe.lr)
    timms = CosineLRScheduler(optimizer, t_initial=length, lr_min=recipe.min_lr, warmup_t=round(recipe.warmup * length),
                              warmup_lr_init=recipe.warmup_lr)  # fmt: skip
    for t in range(units):
        timms.step(t)
        assert rate_at(recipe, t, units) == optimizer.param_groups[0]["lr"]


def test_a_warm_up_of_one_step_that_reaches_lr_divides_by_no_zero(recipe):
    assert rate_at(recipe(warmup=0.1, warmup_reaches_lr=True, lr=1.0, warmup_lr=0.5), 0, 10) == 0.5
