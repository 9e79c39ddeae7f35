"""The loop: same bits, exact resume, divergence, clipping, smoothing, modes, checks, hooks."""

import json

import pytest
import torch
from torch.nn.functional import log_softmax, one_hot

from karst_bench.engine.callbacks import Callbacks, Several
from karst_bench.engine.checkpoint import new_state
from karst_bench.engine.evaluate import top1
from karst_bench.engine.mix import mix
from karst_bench.engine.objective import CrossEntropy
from karst_bench.engine.outcome import Check, DivergedError, Interrupted
from karst_bench.engine.schedule import rate_at
from karst_bench.engine.step import train_mode, train_step
from karst_bench.engine.streams import Streams
from karst_bench.engine.train import fit
from karst_bench.errors import CheckpointError, UserError

CPU = torch.device("cpu")


class Watch(Callbacks):
    """Callbacks from functions."""

    def __init__(self, *, stop=lambda: False, state=None, check=None, epoch=None):
        self.should_stop = stop
        for name, function in (("on_state", state), ("on_check", check), ("on_epoch", epoch)):
            if function is not None:
                setattr(self, name, function)


def run(net, plain, batches, recipe, *, seed=0, precision="fp32", **options):
    model = net()
    out = fit(model, [plain], batches, recipe=recipe, precision=precision, device=CPU, streams=Streams(seed), **options)
    return out, {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_same_seed_same_bits_other_seed_others(net, plain, batches, recipe):
    before = torch.get_rng_state()
    first, weights = run(net, plain, batches, recipe())
    torch.rand(3)
    again, weights_again = run(net, plain, batches, recipe())
    other, weights_other = run(net, plain, batches, recipe(), seed=1)
    assert first.curves == again.curves and same(weights, weights_again)
    assert first.curves != other.curves and not same(weights, weights_other)
    torch.set_rng_state(before)


def test_dropout_draws_from_the_seeds_own_stream(net, plain, batches, recipe):
    seeds = []

    class Noting(type(plain)):
        def before_step(self, step, total):
            seeds.append(torch.initial_seed())

    for seed in (0, 1):
        run(net, Noting(), batches, recipe(epochs=1), seed=seed)
    assert {*seeds[:5]} == {Streams(0).seed_of("dropout")} and {*seeds[5:]} == {Streams(1).seed_of("dropout")}


def test_the_global_generator_is_left_alone(net, plain, batches, recipe):
    before = torch.get_rng_state()
    run(net, plain, batches, recipe())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("optimiser", "mixing"), [("adamw", None), ("sgd", None), ("adamw", (0.8, 1.0))])
def test_resume_at_every_step_equals_uninterrupted(net, plain, batches, recipe, optimiser, mixing):
    r = recipe(optimiser=optimiser)
    if mixing:  # cutmix cuts rectangles
        batches.x = batches.x.view(18, 1, 2, 3)
    checks = [Check("val", batches, frozenset({1, 2, 3}), choose=True)]
    whole, weights = run(net, plain, batches, r, checks=checks, mixing=mixing)
    assert mixing is None or not same(weights, run(net, plain, batches, r)[1])
    steps = r.epochs * len(batches)
    for cut in range(1, steps + 1):
        asked = iter(range(1, steps + 1))
        with pytest.raises(Interrupted) as stopped:
            run(net, plain, batches, r, checks=checks, mixing=mixing,
                callbacks=Watch(stop=lambda asked=asked, cut=cut: next(asked) == cut))  # fmt: skip
        state = stopped.value.state
        state = new_state(state["tensors"], json.loads(json.dumps(state["meta"])))
        resumed, after = run(net, plain, batches, r, seed=5, checks=checks, state=state, mixing=mixing)
        assert resumed.curves == whole.curves, cut
        assert (resumed.best_epoch, resumed.steps, resumed.images) == (whole.best_epoch, steps, 3 * 18)
        assert same(after, weights), cut


def test_resume_from_the_checkpoint_after_each_epoch(net, plain, batches, recipe):
    states = []
    whole, weights = run(net, plain, batches, recipe(), callbacks=Watch(state=lambda make: states.append(make())))
    assert len(states) == 3
    for state in states:
        resumed, after = run(net, plain, batches, recipe(), state=state)
        assert resumed.curves == whole.curves and same(after, weights)


def test_a_method_hears_every_epoch_from_0_and_a_resumed_one_again(net, plain, batches, recipe):
    heard = []

    class Listening(type(plain)):
        def on_epoch(self, epoch, epochs):
            heard.append((epoch, epochs))

    run(net, Listening(), batches, recipe())
    assert heard == [(0, 3), (1, 3), (2, 3)]
    asked = iter(range(1, 99))
    with pytest.raises(Interrupted) as stopped:
        run(net, plain, batches, recipe(), callbacks=Watch(stop=lambda: next(asked) == 7))
    heard.clear()
    run(net, Listening(), batches, recipe(), state=stopped.value.state)
    assert heard == [(1, 3), (2, 3)]


def test_the_curves_have_the_rate_of_each_epochs_last_step(net, plain, batches, recipe):
    r = recipe(epochs=3)
    out, _ = run(net, plain, batches, r)
    assert out.curves["lr"] == [pytest.approx(rate_at(r, last, 15)) for last in (4, 9, 14)]


def test_resume_refuses_another_recipe_and_another_model(net, plain, batches, recipe):
    states = []
    run(net, plain, batches, recipe(), callbacks=Watch(state=lambda make: states.append(make())))
    with pytest.raises(UserError, match=r"epochs=3.*has 4"):
        run(net, plain, batches, recipe(epochs=4), state=states[0])

    def other():
        model = net()
        model.adapter.requires_grad_(False)
        return model

    with pytest.raises(UserError, match=r"adapter\.0"):
        run(other, plain, batches, recipe(), state=states[0])


BENT = {
    "a moment that is too short": ("tensors", "optim/adapter.0.weight:exp_avg", lambda t: t.flatten()[:1]),
    "a moment of another type": ("tensors", "optim/adapter.0.weight:exp_avg_sq", lambda t: t.to(torch.int8)),
    "a step that is none": ("tensors", "optim/adapter.0.weight:step", lambda t: -t),
    "half a state": ("tensors", "optim/adapter.0.weight:exp_avg", None),
    "kept weights of another shape": ("tensors", "best/adapter.0.weight", lambda t: t.flatten()),
    "more epochs than there are": ("at", "epoch", lambda _: 9),
    "a curve without its end": ("curves", "lr", lambda values: values[:-1]),
    "a look after an epoch to come": ("curves", "checks", lambda values: [value | {"epoch": 2} for value in values]),
    "a loss that is no number": ("curves", "train_loss", lambda values: [float("nan") for _ in values]),
}


@pytest.mark.parametrize(("where", "key", "bend"), BENT.values(), ids=BENT)
def test_a_state_that_no_run_wrote_is_refused_before_anything_is_trained(net, plain, batches, recipe, where, key, bend):
    states = []
    checks = [Check("val", batches, frozenset({1, 2, 3}), choose=True)]
    run(net, plain, batches, recipe(), checks=checks, callbacks=Watch(state=lambda make: states.append(make())))
    state = states[0]
    holder = {"tensors": state["tensors"], "at": state["meta"]["at"], "curves": state["meta"]["at"]["curves"]}[where]
    value = holder.pop(key)
    if bend is not None:
        holder[key] = bend(value)
    with pytest.raises(CheckpointError):
        run(net, plain, batches, recipe(), checks=checks, state=state, callbacks=Watch(stop=lambda: pytest.fail("trained")))


def test_nan_ends_the_run_and_names_the_step(net, plain, batches, recipe):
    class Bad(type(plain)):
        def before_step(self, step, total):
            self.step = step

        def penalty(self):
            return torch.tensor(float("nan") if self.step == 7 else 0.0)

    with pytest.raises(DivergedError, match=r"nan at step 8 of 15 \(epoch 2, lr .*recipe\.lr=0\.01"):
        run(net, Bad(), batches, recipe())


def test_a_weight_lost_in_the_last_step_is_noticed(net, plain, batches, recipe):
    class Bad(type(plain)):
        def after_step(self, step, total):
            if step == total - 1:
                with torch.no_grad():
                    model.head.bias.fill_(float("inf"))

    model = net()
    with pytest.raises(DivergedError, match="weight is not finite"):
        fit(model, [Bad()], batches, recipe=recipe(), precision="fp32", device=CPU, streams=Streams(0))


def test_clipping_bounds_the_step(net, plain, batches, recipe):
    r = recipe(optimiser="sgd", momentum=0.0, wd=0.0, lr=1.0, clip_grad=1e-3)
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    live = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([{"params": live[:1]}, {"params": live[1:]}], lr=1.0)  # one norm over all groups
    x, y = next(batches.epoch(None))
    train_step(model, x, y, methods=[plain], optimizer=optimizer, recipe=r, objective=CrossEntropy(r, "fp32"))
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_label_smoothing_is_the_mixture_with_uniform(net, plain, batches, recipe):
    model = net().eval()
    x, y = next(batches.epoch(None))
    logp = log_softmax(model(x), 1).detach()
    reference = -(0.9 * logp.gather(1, y[:, None]).squeeze(1) + 0.1 * logp.mean(1)).mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    r = recipe(label_smoothing=0.1)
    loss, *_ = train_step(model, x, y, methods=[plain], optimizer=optimizer, recipe=r, objective=CrossEntropy(r, "fp32"))
    assert float(loss) == pytest.approx(float(reference), rel=1e-6)


def test_mixing_shares_pixels_and_loss_alike(net, plain, batches, recipe):
    x, y = torch.ones(4, 3, 32, 32), torch.arange(4) % 3
    x[2:] = 0.0
    generator, shares = torch.Generator().manual_seed(0), []
    for _ in range(20):
        mixed_x, mixed = mix(x, y, generator, (0.8, 1.0))
        assert torch.equal(mixed.second, y.flip(0))
        assert float(mixed_x[0].mean()) == pytest.approx(mixed.share, abs=1e-5)
        assert float(mixed_x[3].mean()) == pytest.approx(1 - mixed.share, abs=1e-5)
        shares.append(mixed.share)
    assert max(shares) - min(shares) > 0.3
    model, rows = net().eval(), batches.x[:4]
    logp = log_softmax(model(rows), 1).detach()
    soft = mixed.share * one_hot(y, 3) + (1 - mixed.share) * one_hot(mixed.second, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    r = recipe()
    loss, *_ = train_step(
        model, rows, y, methods=[plain], optimizer=optimizer, recipe=r, objective=CrossEntropy(r, "fp32"), mixed=mixed
    )
    assert float(loss) == pytest.approx(float(-(soft * logp).sum(1).mean()), rel=1e-6)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_mixup_and_cutmix_can_be_had_alone(alphas):
    """Mixup of black and white gives grey; cutmix leaves every pixel black or white."""
    x, generator = torch.zeros(2, 3, 32, 32), torch.Generator().manual_seed(0)
    x[1] = 1.0
    for _ in range(20):
        levels = len(mix(x, torch.arange(2), generator, alphas)[0][0].unique())
        assert levels == 1 if alphas[0] else levels <= 2
    greys = [float(mix(x, torch.arange(2), generator, alphas)[0][0].max()) for _ in range(20)]
    assert any(0 < grey < 1 for grey in greys) == bool(alphas[0])


def test_a_fair_coin_chooses_between_mixup_and_cutmix():
    """Mixup makes the black image one grey, cutmix never: of 400 batches each has its half, give or take four deviations."""
    x, generator = torch.zeros(2, 1, 4, 4), torch.Generator().manual_seed(0)
    x[1] = 1.0
    black = [mix(x, torch.arange(2), generator, (1.0, 1.0))[0][0] for _ in range(400)]
    assert 160 < sum(0 < float(image.min()) < 1 for image in black) < 240


def test_penalty_is_trained_on_and_gradients_are_seen_after_the_step(net, plain, batches, recipe):
    seen = []

    class Weigh(type(plain)):
        def penalty(self):
            return 100.0 * model.head.weight.square().sum()

        def after_step(self, step, total):
            seen.append((step, total, model.head.weight.grad is not None))

    model = net()
    before = float(model.head.weight.detach().norm())
    r = recipe(wd=0.0)
    fit(model, [plain, Weigh()], batches, recipe=r, precision="fp32", device=CPU, streams=Streams(0))
    assert float(model.head.weight.detach().norm()) < 0.9 * before
    assert seen == [(i, 15, True) for i in range(15)]


def test_eval_trunk_keeps_its_dropout_off_and_the_methods_on(net):
    model = net()
    train_mode(model, "eval")
    assert [model.trunk[1].training, model.adapter[1].training, model.head.training] == [False, True, True]
    assert not model.training, "timm's attention drops by the mode of the module that holds both"
    train_mode(model, "train")
    assert model.trunk[1].training


def test_one_method_with_an_eval_trunk_is_enough(net, plain, batches, recipe):
    """Beside a method that does not care: the other's frozen trunk still runs without dropout."""
    seen, model = [], net()
    model.trunk[1].register_forward_pre_hook(lambda module, _: seen.append(module.training))
    quiet = type(plain)()
    quiet.backbone_mode = "eval"
    fit(model, [plain, quiet], batches, recipe=recipe(epochs=1), precision="fp32", device=CPU, streams=Streams(0))
    assert seen and not any(seen)


def test_checks_leave_a_mixed_mode_and_the_random_stream_alone(net, plain, batches, recipe):
    plain.backbone_mode = "eval"
    watched, weights = run(net, plain, batches, recipe(), checks=[Check("test", batches, frozenset({1, 2, 3}))])
    alone, weights_alone = run(net, plain, batches, recipe())
    assert same(weights, weights_alone)
    assert [c["epoch"] for c in watched.curves["checks"]] == [1, 2, 3] and alone.curves["checks"] == []
    assert watched.check("test", 3) == watched.curves["checks"][-1]["top1_pct"]
    assert watched.best_epoch is None and watched.peak("test") is not None and watched.peak("val") is None


def test_best_val_puts_the_first_best_weights_back(net, plain, batches, recipe, monkeypatch):
    scores = iter([50.0, 70.0, 70.0])
    seen = []

    def scored(model, *_, **__):
        seen.append(model.head.weight.detach().clone())
        return type("S", (), {"top1_pct": next(scores)})()

    monkeypatch.setattr("karst_bench.engine.train.top1", scored)
    result, rows = [], []
    checks = [Check("val", batches, frozenset({1, 2, 3}), choose=True)]
    model = net()
    out = fit(
        model, [plain], batches, recipe=recipe(), precision="fp32", device=CPU, streams=Streams(0), checks=checks,
        callbacks=Watch(check=lambda *what: result.append(what), epoch=rows.append),
    )  # fmt: skip
    assert (out.best_epoch, out.best_top1_pct) == (2, 70.0)
    assert torch.equal(model.head.weight, seen[1]) and not torch.equal(seen[1], seen[2])
    assert result == [(1, "val", 50.0), (2, "val", 70.0), (3, "val", 70.0)]
    assert [row["val_top1_pct"] for row in rows] == [50.0, 70.0, 70.0] and "train_loss" in rows[0]


def test_bf16_autocast_is_near_fp32_and_keeps_fp32_weights(net, plain, batches, recipe):
    full, _ = run(net, plain, batches, recipe())
    half, weights = run(net, plain, batches, recipe(), precision="bf16")
    assert half.curves["train_loss"] != full.curves["train_loss"]
    assert half.curves["train_loss"] == pytest.approx(full.curves["train_loss"], rel=0.02)
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_curves_and_speed(net, plain, batches, recipe):
    out, _ = run(net, plain, batches, recipe(epochs=10, lr=3e-2))
    assert out.curves["epoch"] == list(range(1, 11))
    assert {len(out.curves[k]) for k in ("train_loss", "train_top1_pct", "lr")} == {10}
    assert out.curves["train_loss"][-1] < out.curves["train_loss"][0]
    assert (out.steps, out.images) == (50, 180) and out.train_images_per_s > 0 and out.step_ms_median > 0


def test_frozen_weights_stay_and_nothing_to_train_is_an_error(net, plain, batches, recipe):
    _, weights = run(net, plain, batches, recipe())
    assert torch.equal(weights["trunk.0.weight"], net().trunk[0].weight)
    with pytest.raises(UserError, match="nothing to train: 0 trainable"):
        run(lambda: net().requires_grad_(False), plain, batches, recipe())


def test_top1_counts_every_image_once(net, batches):
    model = net().eval()
    score = top1(model, batches, precision="fp32", device=CPU)
    logits = model(batches.x).detach()
    assert score.n == 18
    assert score.top1_pct == pytest.approx(100 * float((logits.argmax(1) == batches.y).float().mean()))
    assert score.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, batches.y)), rel=1e-6)
    with pytest.raises(UserError, match="precision=fp8"):
        top1(model, batches, precision="fp8", device=CPU)


def test_several_watchers_hear_everything_in_order_and_one_may_stop(net, plain, batches, recipe):
    heard = []

    class Named(Callbacks):
        def __init__(self, name, last):
            self.name, self.last = name, last

        def on_start(self, epochs, steps_per_epoch, done):
            heard.append((self.name, "start", epochs, steps_per_epoch, done))

        def on_step(self, epoch, done, running):
            heard.append((self.name, "step", epoch, done))

        def on_end(self):
            heard.append((self.name, "end"))

        def should_stop(self):
            return sum(what[1] == "step" for what in heard if what[0] == self.name) >= self.last

    with pytest.raises(Interrupted):
        run(net, plain, batches, recipe(), callbacks=Several([Named("a", 99), Named("b", 2)]))
    assert heard == [(n, *what) for what in [("start", 3, 5, 0), ("step", 1, 1), ("step", 1, 2), ("end",)] for n in "ab"]
