"""What a step would launch and keep on a GPU, counted on tensors without values."""

import pytest
import timm
import torch

from benchmarks.fake_gpu import forward, forward_and_backward, kept_bytes, moved, steps
from benchmarks.memory import WithoutValues
from benchmarks.rows import Case, floor, karst, lora, of_method
from karst_bench.adapt import counts
from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.speed.activation_recompute import recompute
from karst_bench.adapt.timm_compat import FakeTensorMode
from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import options

pytestmark = pytest.mark.usefixtures("fake_cuda")
SMALL = Case("vit_tiny_patch16_224", 2, 2)
IMAGES = torch.zeros(2, 3, 224, 224)


def operations(net):
    return forward_and_backward(net, IMAGES)[0].operations


def test_operations_of_a_step():
    """ATen operations but views and casts, forward and backward: KARST at most 30 more than the floor for each adapted layer."""
    least = len(operations(floor(SMALL)))
    for net, most in ((karst(SMALL, short=False), 24), (of_method(SMALL, "karst_all"), 26), (lora(SMALL), 12)):
        layers = len(adapted_model(net).layers)
        assert len(operations(net)) <= least + most * layers


@pytest.mark.parametrize(("name", "most"), [("snell", 44), ("snella", 49)])
def test_operations_of_a_kernelised_change(name, most):
    """The forward pass of each of SNELL's sites: its kernel, the threshold, the product and the drops."""
    net = of_method(SMALL, name)
    sites = sum(len(layer.branches) for layer in adapted_model(net).layers.values())
    assert len(forward(net, IMAGES).operations) <= len(forward(floor(SMALL), IMAGES).operations) + most * sites


def test_lora_with_dropout_copies_no_output():
    """Its updates of q and v are one product onto the projection's output, nothing as wide as that is put together."""
    width = 3 * 192
    wide = [name for name, args in operations(of_method(SMALL, "lora"))
            if name.startswith("cat") and any(tensor.ndim == 3 and tensor.shape[-1] >= width // 3 for tensor in args[0])
            and args[1:] == (-1,)]  # fmt: skip
    assert not wide


def test_a_rescaled_output_is_not_passed_over_again():
    """Its gain's gradient comes from dy^T x: no operation but bias and sum of dy reads or writes (T, d_out) in full precision."""
    images = torch.zeros(2, 3, 224, 224)
    net, tokens = of_method(SMALL, "karst_all"), 2 * 197
    wide = [name for name, args in forward_and_backward(net, images)[0].operations for tensor in args[:1]
            if name.startswith(("mul", "addcmul")) and tensor.ndim == 2 and tensor.shape[0] == tokens]  # fmt: skip
    assert not wide


def two_steps(case, images, words):
    """No value is read by the host, nothing made on the CPU, in the first step and the next; one operation updates a group."""
    recipe = settings_of(words).recipe
    watched = steps(case.net, images, 2, methods=case.methods, recipe=recipe)
    assert not watched.on_cpu
    names = [name.partition(".")[0] for name, _ in watched.operations]
    fused = [name for name in names if name.startswith("_fused")]
    assert set(fused) == {f"_fused_{recipe.optimiser}_"} and len(fused) <= 2 * 2  # with and without decay
    assert recipe.clip_grad is None or {"_foreach_norm", "linalg_vector_norm"} & {*names}


@pytest.mark.parametrize(
    "words", [["method=karst", "recipe.clip_grad=1.0"], ["method=snella"], ["method=bitfit", "recipe.optimiser=sgd"]]
)
def test_loss_clipping_and_optimiser_run_on_the_gpu_alone(attached, images, words):
    two_steps(attached("vit", *words, shallow=True), images, words)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in options("method") if name != "none"])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_step_of_every_method_runs_on_the_gpu_alone(on_each, images, family, name):
    two_steps(on_each(family, name), images, [f"method={name}"])


class ShortSwin(Case):
    """Swin-T with one or two blocks a stage, its weights without values."""

    def net(self):
        with torch.device("meta"):
            return timm.create_model(self.model, num_classes=5, drop_path_rate=0.0, depths=(1, 1, 2, 1))


@pytest.mark.parametrize(
    "case", [WithoutValues("vit_base_patch16_224", 64, 3), ShortSwin("swin_tiny_patch4_window7_224", 64)], ids=["vit", "swin"]
)
def test_kept_for_backward(case):
    """KARST keeps at most 1.15 times what the floor keeps, cast weights counted, with norms and GELUs computed again, which a
    GPU does by default; with recompute=true, which makes merged weights again too, at most as much. All tokens, no last block
    that is cheaper than the others."""
    images = torch.zeros(case.batch, 3, 224, 224)
    least = kept_bytes(floor(case), images)["kept_bytes"]
    for weights, most in ((False, 1.05), (True, 1.0)):
        net = karst(case, short=False)
        recompute(net, weights=weights)
        assert kept_bytes(net, images)["kept_bytes"] <= most * least


@pytest.mark.parametrize("name", ["heat", "full"])
def test_what_training_keeps_is_counted_where_it_trains(name, monkeypatch):
    """A model on a GPU is copied without its values, what a scoring pass found beside it as it is."""
    net, mode = of_method(SMALL, name), FakeTensorMode(allow_non_fake_inputs=True)
    expected = counts.training_counts(net, (224, 224)), counts.forward_macs(net, (224, 224))
    with mode:
        moved(net, "cuda")
    monkeypatch.setattr(counts, "FakeTensorMode", lambda **_: mode)
    found = counts.training_counts(net, (224, 224)), counts.forward_macs(net, (224, 224))
    ratio = found[0]["saved_bytes_per_image"] / expected[0]["saved_bytes_per_image"]
    assert 0.8 < ratio < 1.2, "attention keeps its scores where torch sees no GPU"
    assert found[1] == expected[1]
