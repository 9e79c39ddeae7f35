"""Attached models in other people's programs: any precision, input size, checkpointing, copy and file that timm and torch allow."""

import copy
import io
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf.basecontainer import BaseContainer
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from zoo import HYPER, same

import karst_bench
from benchmarks.backbones import build, images_for
from karst_bench import UserError
from karst_bench.config.option_files import options

METHODS = [name for name in options("method") if name not in ("none", "linear", "linear_sgd")]
HOOKED = ("vpt_deep", "vpt_shallow", "dtl", "dtl_plus", "lst", "noah", "sparse_tuning")
VIT, SWIN_NET = "ViT, class token", "Swin"
SLOW = pytest.mark.slow


def attached(net, name, images, **more):
    hyper = next((values for start, values in HYPER.items() if name.startswith(start)), {})
    torch.manual_seed(0)
    karst_bench.attach(net, name, seed=1, scoring=[(images.to(next(net.parameters()).dtype), torch.arange(len(images)))],
                       **hyper, **more)  # fmt: skip
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for p in net._adapted_model.trained().values():
            p.add_(0.05 * torch.randn(p.shape, generator=generator).to(p.dtype))
    return net.eval()


def gradients(net, images):
    net.zero_grad()
    torch.manual_seed(0)
    cross_entropy(net(images).float(), torch.arange(len(images))).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def test_a_users_hydra_and_logging_are_left_alone():
    ConfigStore.instance().store(name="base_schema", node={"mine": 1})
    kept = dict(ConfigStore.instance().repo)
    karst_bench.attach(build(VIT), "linear")  # imports what attaching imports
    with initialize(version_base="1.2", config_path=None):
        before = _of_the_process()
        karst_bench.attach(build(VIT), "lora", also="vpt_deep", seed=1)
        assert GlobalHydra.instance().is_initialized() and VersionBase.instance().version_base.base_version == "1.2"
        assert compose("base_schema").mine == 1 and ConfigStore.instance().repo == kept
        assert _of_the_process() == before
    assert not GlobalHydra.instance().is_initialized()
    assert not logging.getLogger("karst_bench").handlers and logging.getLogger("karst_bench").propagate


def _of_the_process():
    return dict(BaseContainer._resolvers), logging.root.level, list(logging.root.handlers), torch.get_num_threads()


def test_attach_in_threads_is_attach():
    nets = [build(VIT) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda net: karst_bench.attach(net, "karst", seed=3, m=4), nets))
    for net in nets[1:]:
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), nets[0].parameters(), strict=True))


SCORED = ("spt_lora", "spt_adapter", "heat")  # what they choose depends on the precision
EACH_VERB = ("lora", "ssf", "adaptformer", "fact_tt", "dtl", "vpt_deep", "sparse_tuning", "repadapter", "bitfit")
REST = [name for name in METHODS if name not in (*EACH_VERB, *SCORED)]


HALF = [(VIT, torch.bfloat16, EACH_VERB), (VIT, torch.float16, ("lora", "ssf", "dtl")),
        (SWIN_NET, torch.bfloat16, ("ssf", "vpt_deep"))]  # fmt: skip
ALL_HALF = [pytest.param(label, dtype, [*EACH_VERB, *REST], marks=SLOW, id=f"all-{label}-{dtype}")
            for label in (VIT, SWIN_NET) for dtype in (torch.bfloat16, torch.float16)]  # fmt: skip


@pytest.mark.parametrize(("label", "dtype", "names"), [*HALF, *ALL_HALF])
def test_a_model_in_half_precision_trains_beside_methods_in_full(label, dtype, names):
    """Logits near those of the model in float32 and gradients of what trains, which stays in float32."""
    images, tolerance = images_for(label, 2), 0.02 if dtype == torch.float16 else 0.1
    for name in names:
        try:
            whole = attached(build(label), name, images)
        except UserError:
            continue
        net = attached(build(label).to(dtype), name, images)
        net.load_state_dict({key: tensor.to(net.state_dict()[key].dtype) for key, tensor in whole.state_dict().items()})
        logits = net(images.to(dtype))
        assert logits.dtype == dtype, name
        scale = max(1.0, whole(images).abs().max().item())
        assert (logits.float() - whole(images)).abs().max() < tolerance * scale, name
        found = gradients(net, images.to(dtype))
        assert all(grad.isfinite().all() for grad in found.values()), name
        assert any(p.dtype == torch.float32 for p in net._adapted_model.trained().values()) or name in ("bitfit", "full"), name


@pytest.mark.parametrize(
    ("label", "names"), [(VIT, HOOKED), (SWIN_NET, ("dtl_plus", "lst", "vpt_deep")), ("DINOv3", ("vpt_deep",))]
)
def test_blocks_may_be_computed_again_in_backward(label, names):
    images = images_for(label)
    for name in (*names, "adaptformer", "convpass"):
        net = attached(build(label), name, images)
        expected = gradients(net, images)
        net.set_grad_checkpointing(True)
        found = gradients(net, images)
        assert found.keys() == expected.keys()
        for key, grad in found.items():
            torch.testing.assert_close(grad, expected[key], atol=1e-5, rtol=1e-4, msg=f"{name}: {key}")
        copy.deepcopy(net)


def test_two_passes_may_wait_for_their_backward():
    """Each finds the states that entered its own blocks."""
    images, other = images_for(VIT), images_for(VIT).flip(0) * 0.5
    net = attached(build(VIT), "dtl", images)
    expected = {name: a + b for (name, a), b in zip(gradients(net, images).items(), gradients(net, other).values(), strict=True)}
    net.set_grad_checkpointing(True)
    net.zero_grad()
    losses = [cross_entropy(net(x), torch.arange(len(x))) for x in (images, other)]
    sum(losses).backward()
    for name, p in net.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["convpass", "dtl_plus", "vpt_deep", "lora", "adaptformer"])
def test_the_grid_is_that_of_the_image(name):
    net = attached(build(VIT, dynamic_img_size=True), name, images_for(VIT))
    small, large = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 48, 24)
    assert net(small).shape == net(large).shape
    fixed = attached(build(VIT), name, images_for(VIT))
    fixed.load_state_dict(net.state_dict())
    same(net(small), fixed(small))
    fixed.set_input_size((48, 24))
    assert fixed(large).shape == (2, 5)
    assert net(small).shape == (2, 5), "and back"


@pytest.mark.filterwarnings("ignore")  # timm's own, of resampling
@pytest.mark.parametrize("label", [SWIN_NET, "Swin V2", "BEiT", "DINOv3"])
def test_a_models_input_size_may_change_after_attaching(label):
    if not hasattr(build(label), "set_input_size"):
        pytest.skip("this timm's model keeps its size")
    for name in ("vpt_deep", "dtl_plus", "convpass", "lora", "ssf"):
        net = build(label)
        try:
            attached(net, name, images_for(label))
        except UserError:
            continue
        net.set_input_size((64, 64))
        assert net(torch.randn(2, 3, 64, 64)).shape == (2, 5), name


def test_dropped_patches_form_no_image():
    images = images_for(VIT)
    for name in ("lora", "vpt_deep", "dtl", "adaptformer"):
        assert gradients(attached(build(VIT, patch_drop_rate=0.5), name, images).train(), images)
    for name in ("convpass", "dtl_plus"):
        net = attached(build(VIT, patch_drop_rate=0.5), name, images)
        net(images)
        with pytest.raises(UserError, match="grid of 4 x 4, and here are 8 patches: build the model with patch_drop_rate=0"):
            net.train()(images)


@pytest.mark.parametrize("label", [VIT, SWIN_NET])
@pytest.mark.parametrize("names", [EACH_VERB, pytest.param([*REST, *SCORED], marks=SLOW)], ids=["few", "rest"])
def test_a_model_is_copied_averaged_and_saved_whole(label, names):
    images = images_for(label)
    for name in names:
        net = build(label)
        try:
            attached(net, name, images)
        except UserError:
            continue
        gradients(net, images)  # a pass with a graph leaves nothing behind that could not be copied
        logits, file = net(images).detach(), io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        same(torch.load(file, weights_only=False)(images), logits)
        mean = AveragedModel(net, use_buffers=True)
        mean.update_parameters(net)
        same(mean(images), logits)


@pytest.mark.parametrize(
    "label",
    ["DINOv2, registers, layer scale", SWIN_NET, *(pytest.param(x, marks=SLOW) for x in (VIT, "ViT, mean of patches", "DINOv3"))],
)
def test_inner_features_have_the_models_own_shapes_or_are_refused(label):
    images, plain = images_for(label), build(label)
    expected = [f.shape for f in plain.forward_intermediates(images, intermediates_only=True)]
    for name in ("vpt_deep", "vpt_shallow", "noah", "dtl", "sparse_tuning"):
        net = build(label)
        try:
            attached(net, name, images)
        except UserError:
            continue
        if name == "sparse_tuning":
            with pytest.raises(UserError, match="drops tokens"):
                net.forward_intermediates(images)
            continue
        assert [f.shape for f in net.forward_intermediates(images, intermediates_only=True)] == expected, name
        if name == "dtl" and hasattr(net, "get_intermediate_layers"):
            with pytest.raises(UserError, match="with norm=False"):
                net.get_intermediate_layers(images, norm=True)
            assert net.get_intermediate_layers(images)[0].shape == plain.get_intermediate_layers(images)[0].shape


@pytest.mark.filterwarnings("ignore")  # the tracer's, of shapes that are Python's
def test_a_traced_model_with_karst_says_the_same():
    """Others: test_inner_features.py."""
    images = images_for(VIT)
    net = attached(build(VIT), "karst", images)
    with torch.no_grad():
        same(torch.jit.trace(net, images, check_trace=False)(images), net(images))


def test_what_trains_is_known_after_a_conversion_made_new_parameters(tmp_path):
    """Meta devices and torch's conversion flag put another object in a parameter's place."""
    net = karst_bench.attach(build(VIT, device="meta"), "karst", m=4, extra="rst")
    names = set(net._adapted_model.trained())
    net.to_empty(device="cpu")
    assert set(net._adapted_model.trained()) == names and names
    karst_bench.attach(other := build("BEiT"), "bitfit", extra="rst")
    names = set(other._adapted_model.trained())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        other.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert set(other._adapted_model.trained()) == names
    assert all(p.requires_grad for p in other._adapted_model.trained().values())
