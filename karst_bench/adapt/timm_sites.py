"""Every place of a timm model that a method may address, by role."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from karst_bench.adapt.timm_blocks import BlockLayout, layout_of, parts_of
from karst_bench.errors import UserError
from karst_bench.nn.model_spec import ModelSpec, Site

# layer -> whose output it is given, unchanged; Swin's attention is given windows of the norm's output
PRODUCERS = {"attn.qkv": "norm1", "mlp.fc1": "norm2", "mlp.fc2": "mlp.act"}


@dataclass(frozen=True)
class ModelKind:
    """One of timm's model classes. family: vit (one sequence of tokens) or swin (stages), which hyper-parameters go by."""

    family: str
    blocks: str = "blocks"  # where they lie; `layers`: in stages
    norms: tuple[str, ...] = ("norm", "fc_norm")  # the final norm is the one of these that is there


MODELS: Mapping[tuple[str, str], ModelKind] = {
    ("vision_transformer", "VisionTransformer"): ModelKind("vit"),
    ("deit", "VisionTransformerDistilled"): ModelKind("vit"),
    ("eva", "Eva"): ModelKind("vit"),
    ("beit", "Beit"): ModelKind("vit"),
    ("vision_transformer_relpos", "VisionTransformerRelPos"): ModelKind("vit"),
    ("swin_transformer", "SwinTransformer"): ModelKind("swin", "layers"),
    ("swin_transformer_v2", "SwinTransformerV2"): ModelKind("swin", "layers"),
    ("hiera", "Hiera"): ModelKind("swin", norms=("head.norm",)),
}


def kind_of(net: nn.Module) -> ModelKind:
    """What is known of a model's class, or of the timm class that it derives from. Raises: UserError for any other."""
    for cls in type(net).__mro__:
        found = MODELS.get((cls.__module__.removeprefix("timm.models."), cls.__name__))
        if found is not None:
            return found
    names = ", ".join(name for _, name in MODELS)
    raise UserError(
        f"methods cannot be attached to a {type(net).__module__}.{type(net).__name__}: where to find its blocks, tokens and final "
        f"norm is not described in karst_bench/adapt/timm_sites.py; use a model of another class of timm ({names}), or add its "
        "description there"
    )


def family_of(net: nn.Module) -> str:
    """`vit` or `swin`. Raises: UserError for a model of another class."""
    return kind_of(net).family


def classifiers(net: Any) -> dict[str, nn.Module]:
    """timm's classifiers of this model by path: one, two where it was distilled; without parameters where it has no classes."""
    found = net.get_classifier()
    wanted = [head for head in (found if isinstance(found, tuple) else (found,)) if isinstance(head, nn.Module)]
    paths = {id(module): path for path, module in net.named_modules()}
    return {paths[id(head)]: head for head in wanted}


def classifier(net: Any) -> nn.Module:
    """The one classifier of this model. Raises: UserError where there are two (distillation)."""
    heads = list(classifiers(net).values())
    if len(heads) != 1:
        raise UserError(f"this {type(net).__name__} has {len(heads)} heads (distillation); use the variant with one classifier")
    return heads[0]


def head_parameters(net: nn.Module) -> set[int]:
    """The ids of the classifiers' parameters."""
    return {id(p) for head in classifiers(net).values() for p in head.parameters()}


def final_norms(net: nn.Module) -> list[str]:
    """The paths of the norms between the last block and the classifier: before pooling, behind it, or none."""
    return [path for path in kind_of(net).norms if _has(net, path) and not isinstance(net.get_submodule(path), nn.Identity)]


def model_spec(net: Any) -> ModelSpec:
    """Reads an unmodified timm model into a ModelSpec. Raises: UserError if the family or a block's layout is foreign."""
    kind, head = kind_of(net), head_parameters(net)
    blocks = list(_blocks(net, kind))
    layouts = [layout_of(block, path) for _, path, block in blocks]
    sites = list(_outer_sites(net, kind, [stage for stage, *_ in blocks]))
    for index, ((stage, path, block), layout) in enumerate(zip(blocks, layouts, strict=True)):
        sites += _block_sites(path, block, layout, index, stage)
    sites.sort(key=lambda site: (-1 if site.role in ("embed", "embed_norm") else site.block if site.block is not None
                                 else _before(site, blocks)))  # fmt: skip
    names = tuple((name, p.numel()) for name, p in net.named_parameters() if id(p) not in head)
    return ModelSpec(
        family=kind.family, depth=len(blocks), widths=tuple(_width(block) for *_, block in blocks),
        heads=tuple(_heads(block) for *_, block in blocks), stages=tuple(stage for stage, *_ in blocks), patch=_patch(net),
        grid=_grid(net), prefix_tokens=getattr(net, "num_prefix_tokens", 0), embed_dim=_embed_dim(net, blocks[0][2]),
        backbone_params=sum(size for _, size in names), sites=tuple(sites), names=names, model=type(net).__name__,
        class_token=getattr(net, "cls_token", None) is not None, blocks=tuple(path for _, path, _ in blocks),
        fixed_tokens=next((_fixed(net, layout) for layout in layouts), ""),
    )  # fmt: skip


def input_size(net: Any) -> tuple[int, int]:
    """Rows and columns of the images that a model takes as it stands. Raises: UserError for a model of another class."""
    kind_of(net)
    given = getattr(net.patch_embed, "img_size", None)
    rows, columns = (cells * _patch(net) for cells in _grid(net)) if given is None else given
    return int(rows), int(columns)


def producer_path(path: str, family: str) -> str | None:
    """The path of the module whose output is the input of the block layer at `path` as it stands; None where none is."""
    for layer, before in PRODUCERS.items():
        if path.endswith(f".{layer}") and (family == "vit" or layer != "attn.qkv"):
            return path.removesuffix(layer) + before
    return None


def _blocks(net: Any, kind: ModelKind) -> Iterator[tuple[int, str, Any]]:
    """(stage, path, block), in network order. Hiera's stages are said by their last blocks."""
    if kind.blocks == "layers":
        for s, stage in enumerate(net.layers):
            for j, block in enumerate(stage.blocks):
                yield s, f"layers.{s}.blocks.{j}", block
    else:
        ends = getattr(net, "stage_ends", ())
        for i, block in enumerate(net.blocks):
            yield sum(i > end for end in ends), f"blocks.{i}", block


def _block_sites(path: str, block: Any, layout: BlockLayout, index: int, stage: int) -> Iterator[Site]:
    heads = _heads(block)
    if layout.parallel == "fused":
        yield from _fused_sites(f"{path}.in_proj", block, index, stage, heads)
    for role, tail in parts_of(block, layout):
        if role == "qkv":
            yield from _attention_sites(f"{path}.{tail}", block.get_submodule(tail.rpartition(".")[0]), index, stage, heads)
            continue
        site = _site(role, f"{path}.{tail}", block.get_submodule(tail), stage, index, heads if role == "proj" else None)
        if site is not None:
            yield site


def _attention_sites(path: str, attn: Any, index: int, stage: int, heads: int) -> Iterator[Site]:
    """The fused projection and its thirds, whatever of them stands apart; q, k and v alone where their heads differ in number."""
    home = path.rpartition(".")[0]
    if getattr(attn, "qkv", None) is None and getattr(attn, "num_kv_groups", 1) > 1:
        for role in "qkv":
            own = getattr(attn, f"{role}_proj")
            yield Site(role, f"{home}.{role}_proj", "linear", own.in_features, own.out_features, own.bias is not None, stage, index,
                       biases=(f"{home}.{role}_proj.bias",) if own.bias is not None else ())  # fmt: skip
        return
    if getattr(attn, "qkv", None) is None:
        parts = [getattr(attn, f"{c}_proj") for c in "qkv"]
        biases = tuple(f"{home}.{c}_proj.bias" for c, part in zip("qkv", parts, strict=True) if part.bias is not None)
        d_in, d_out = parts[0].in_features, 3 * parts[0].out_features
    else:
        biases = (f"{path}.bias",) if attn.qkv.bias is not None else ()
        if getattr(attn, "q_bias", None) is not None:
            biases = (f"{home}.q_bias", f"{home}.v_bias")
        d_in, d_out = attn.qkv.in_features, attn.qkv.out_features
    has_bias, third = bool(biases), d_out // 3
    yield Site("qkv", path, "linear", d_in, d_out, has_bias, stage, index, heads, biases=biases)
    for c, chunk in enumerate("qkv"):
        yield Site(chunk, path, "linear", d_in, third, has_bias, stage, index, heads, rows=(c * third, (c + 1) * third))


def _fused_sites(path: str, block: Any, index: int, stage: int, heads: int) -> Iterator[Site]:
    """fc1 and q, k, v as rows of one projection: [MLP; q; k; v]."""
    hidden, d, *_ = block.in_split
    has_bias, d_in = block.in_proj.bias is not None, block.in_proj.in_features
    biases = (f"{path}.bias",) if has_bias else ()
    starts = {"qkv": (hidden, 3 * d), "q": (hidden, d), "k": (hidden + d, d), "v": (hidden + 2 * d, d), "fc1": (0, hidden)}
    for role, (start, size) in starts.items():
        yield Site(role, path, "linear", d_in, size, has_bias, stage, index, None if role == "fc1" else heads,
                   rows=(start, start + size), biases=biases)  # fmt: skip


def _outer_sites(net: Any, kind: ModelKind, stages: list[int]) -> Iterator[Site]:
    """The stem's convolution and norm, patch mergings, the final norm: those that are there."""
    places = [("embed", "patch_embed.proj", 0), ("embed_norm", "patch_embed.norm", 0)]
    for s, stage in enumerate(net.layers if kind.blocks == "layers" else ()):
        if hasattr(stage.downsample, "reduction"):
            places += [("reduction_norm", f"layers.{s}.downsample.norm", s), ("reduction", f"layers.{s}.downsample.reduction", s)]
    places += [("final_norm", path, stages[-1]) for path in final_norms(net)]
    for role, path, stage in places:
        site = _site(role, path, net.get_submodule(path), stage) if _has(net, path) else None
        if site is not None:
            yield site


def _has(net: nn.Module, path: str) -> bool:
    try:
        net.get_submodule(path)
    except AttributeError:
        return False
    return True


def _site(role: str, path: str, module: Any, stage: int, block: int | None = None, heads: int | None = None) -> Site | None:
    """None for a place that nothing is computed at (an identity), or a norm without a weight."""
    biases = (f"{path}.bias",) if getattr(module, "bias", None) is not None else ()
    if isinstance(module, nn.Linear):
        kind, d_in, d_out = "linear", module.in_features, module.out_features
    elif isinstance(module, nn.Conv2d):
        kind, d_in, d_out = "conv", module.weight[0].numel(), module.out_channels
    elif hasattr(module, "normalized_shape") and module.weight is not None:
        kind, d_in, d_out = "norm", module.normalized_shape[0], module.normalized_shape[0]
    else:
        return None
    return Site(role, path, kind, d_in, d_out, bool(biases), stage, block, heads, biases=biases)


def _before(site: Site, blocks: list[tuple[int, str, Any]]) -> float:
    """Sort key of a site outside blocks: patch merging comes before its stage's first block, the final norm last."""
    if site.role == "final_norm":
        return float(len(blocks))
    first = next(i for i, (stage, *_) in enumerate(blocks) if stage == site.stage)
    return first - (0.6 if site.role == "reduction_norm" else 0.5)


def _width(block: Any) -> int:
    """Channels of what leaves the block."""
    width = getattr(block, "dim_out", None)
    norm: Any = next(getattr(block, name) for name in ("norm1", "in_norm", "attns") if hasattr(block, name))
    norm = norm[0].norm if isinstance(norm, nn.ModuleList) else norm
    return int(norm.normalized_shape[0] if width is None else width)


def _heads(block: Any) -> int:
    attn = block.attns[0].attn if hasattr(block, "attns") else getattr(block, "attn", block)
    return int(attn.num_heads if hasattr(attn, "num_heads") else attn.heads)


def _patch(net: Any) -> int:
    return int(net.patch_stride[0] if hasattr(net, "patch_stride") else net.patch_embed.patch_size[0])


def _grid(net: Any) -> tuple[int, int]:
    rows, columns = net.tokens_spatial_shape if hasattr(net, "tokens_spatial_shape") else net.patch_embed.grid_size
    return int(rows), int(columns)


def _embed_dim(net: Any, first: Any) -> int:
    """Channels of the tokens that the first block is given."""
    return int(first.dim) if hasattr(first, "dim_out") else _width(first)


def _fixed(net: Any, layout: BlockLayout) -> str:
    tables = any(name.endswith("relative_position_bias_table") or "rel_pos" in name for name, _ in net.named_parameters())
    return layout.fixed_tokens if tables or family_of(net) == "swin" else ""
