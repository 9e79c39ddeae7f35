"""timm's ways to inner features, and torch's to follow a model: right shapes and values with every class of method, or refused."""

import copy

import pytest
import timm
import torch
from test_anywhere import attached
from timm.models import create_feature_extractor
from torch import nn
from zoo import same

import karst_bench
from benchmarks.backbones import build, images_for, one_of_each_class
from karst_bench import UserError

VIT, SWIN = "ViT, class token", "Swin"
WAYS = {
    "forward_features": lambda net, x: [net.forward_features(x)],
    "forward_head": lambda net, x: [net.forward_head(net.forward_features(x))],
    "forward_intermediates": lambda net, x: net.forward_intermediates(x)[1],
    "forward_intermediates, norm": lambda net, x: net.forward_intermediates(x, norm=True)[1],
    "get_intermediate_layers": lambda net, x: net.get_intermediate_layers(x) if hasattr(net, "get_intermediate_layers") else [],
    "create_feature_extractor": lambda net, x: list(create_feature_extractor(net, [_first_block(net), "head"])(x).values()),
    "jit.trace": lambda net, x: [torch.jit.trace(net, x, check_trace=False)(x)],
}
WHOLE = ("forward_head", "create_feature_extractor", "jit.trace")  # their last tensor is the logits
TOKENS = ("forward_features", "forward_head")
NORMED = (*TOKENS, "forward_intermediates, norm")
# (model, way) -> the classes of methods that it is refused for; docs/own_program.md says so too
REFUSED = {
    **dict.fromkeys(((VIT, way) for way in NORMED), ("dtl", "dtl_plus", "sparse_tuning")),
    (VIT, "forward_intermediates"): ("sparse_tuning",), (VIT, "get_intermediate_layers"): ("sparse_tuning",),
    **dict.fromkeys(((SWIN, way) for way in NORMED), ("vpt_deep",)),
    (SWIN, "create_feature_extractor"): ("convpass", "vpt_deep"),
}  # fmt: skip
FEW = ("lora", "ssf", "bitfit", "adaptformer", "vpt_deep", "dtl_plus", "sparse_tuning", "convpass")
CASES = [
    pytest.param(label, name, marks=() if label == VIT and name in FEW else pytest.mark.slow)
    for label in (VIT, SWIN) for name in one_of_each_class()
]  # fmt: skip


def _first_block(net):
    return "blocks.0" if hasattr(net, "blocks") else "layers.0.blocks.0"


def fx_cannot_follow(plain):
    """Why timm's own extractor fails on the model without a method: torch 2.6 wants a Python bool where timm hands attention's
    is_causal on."""
    try:
        create_feature_extractor(copy.deepcopy(plain), [_first_block(plain)])
    except TypeError as error:
        return f"torch {torch.__version__} follows no plain model: {error}"
    return None


def shapes(tensors):
    return [tuple(tensor.shape) for tensor in tensors]


@pytest.mark.filterwarnings("ignore")  # the tracer's, of shapes that are Python's
@pytest.mark.parametrize(("label", "name"), CASES)
def test_features_have_the_models_own_shapes_or_are_refused(label, name):
    images, plain, net = images_for(label), build(label), build(label)
    try:
        attached(net, name, images)
    except UserError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        logits, skipped = net(images), []
        for way, call in WAYS.items():
            if name in REFUSED.get((label, way), ()):
                with pytest.raises(UserError):
                    call(net, images)
                net.eval()  # torchvision's tracer leaves a model in training mode when it fails
            else:
                if way == "create_feature_extractor" and (why := fx_cannot_follow(plain)):
                    skipped.append(f"{way}: {why}")
                    continue
                found = call(net, images)
                assert shapes(found) == shapes(call(plain, images)), way
                if way in WHOLE:
                    same(found[-1], logits)
            same(net(images), logits)
    if skipped:
        pytest.skip(f"all but {skipped}")


@pytest.mark.parametrize(
    ("label", "name"),
    [pytest.param(*case.values, marks=() if case.values == (VIT, "vpt_deep") else pytest.mark.slow) for case in CASES],
)
def test_a_program_of_torch_export_says_the_same(label, name):
    images, net = images_for(label), build(label)
    try:
        attached(net, name, images)
    except UserError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        same(torch.export.export(net, (images,), strict=False).module()(images), net(images))


def replica_of(net):
    """A copy as torch.nn.parallel.replicate makes it for each GPU."""
    modules = dict(net.named_modules())
    copies = {path: module._replicate_for_data_parallel() for path, module in modules.items()}
    for path, module in modules.items():
        for name, child in module._modules.items():
            copies[path]._modules[name] = None if child is None else copies[f"{path}.{name}".lstrip(".")]
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            setattr(copies[path], name, value)
    return copies[""]


def test_data_parallel_copies_compute_the_same_or_are_refused():
    """DataParallel hands the model on where there is no GPU, and its copies share what a method passes from layer to layer."""
    images = images_for(VIT)
    for name in ("lora", "karst", "ssf", "bitfit", "linear", "repadapter"):
        net = attached(build(VIT), name, images)
        same(nn.DataParallel(net)(images), net(images))
        same(replica_of(net)(images), net(images))
    with pytest.raises(UserError, match="give the model in it"):
        karst_bench.detach(nn.DataParallel(net))
    for name in ("vpt_deep", "dtl", "adaptformer", "sparse_tuning"):
        net = attached(build(VIT), name, images)
        same(nn.DataParallel(net)(images), net(images))
        with pytest.raises(UserError, match="use DistributedDataParallel"):
            replica_of(net)(images)
        same(copy.deepcopy(net)(images), net(images))


@torch.no_grad()
def test_torchvisions_extractor_takes_timms_leaves():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    if why := fx_cannot_follow(build(VIT)):
        pytest.skip(why)
    images, net = images_for(VIT), attached(build(VIT), "adaptformer", images_for(VIT))
    leaves = list(timm.layers.get_notrace_modules())
    made = extraction.create_feature_extractor(net, ["head"], tracer_kwargs={"leaf_modules": leaves})
    same(made(images)["head"], net(images))


def test_a_hook_that_fx_cannot_follow_is_refused():
    net = attached(build("Swin V2"), "convpass", images_for("Swin V2"))
    with pytest.raises(UserError, match="fx cannot follow this method"):
        create_feature_extractor(net, ["head"])
