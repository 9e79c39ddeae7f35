"""Every place of a timm ViT or Swin that a method may address, by role. The one list of timm's module names."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from karst_bench.errors import UserError
from karst_bench.nn.model_spec import ModelSpec, Site

BLOCK_PATHS = {
    "qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2",
}  # fmt: skip
# layer -> whose output it is given, unchanged; Swin's attention is given windows of the norm's output
PRODUCERS = {"attn.qkv": "norm1", "mlp.fc1": "norm2", "mlp.fc2": "mlp.act"}


def family_of(net: nn.Module) -> str:
    """`vit` or `swin`, from timm's own classes. Raises: UserError for anything else."""
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(net, VisionTransformer):
        return "vit"
    if isinstance(net, SwinTransformer):
        return "swin"
    raise UserError(
        f"{type(net).__name__} is neither a timm VisionTransformer nor a timm SwinTransformer; "
        "use a timm ViT or Swin such as vit_base_patch16_224 or swin_base_patch4_window7_224"
    )


def classifier(net: Any) -> nn.Module:
    """timm's classifier of this model. Raises: UserError where there are two (distillation)."""
    head = net.get_classifier()
    if not isinstance(head, nn.Module):
        raise UserError(f"this {type(net).__name__} has 2 heads (distillation); use the variant with one classifier")
    return head


def model_spec(net: Any) -> ModelSpec:
    """Reads an unmodified timm model into a ModelSpec. Raises: UserError if the family or a block's layout is foreign."""
    family = family_of(net)
    head = {id(parameter) for parameter in classifier(net).parameters()}
    blocks = list(_blocks(net, family))
    sites = [*_outer_sites(net, family)]
    for index, (stage, path, block) in enumerate(blocks):
        sites += _block_sites(path, block, index, stage)
    sites.sort(key=lambda site: (-1 if site.role in ("embed", "embed_norm") else site.block if site.block is not None
                                 else _before(site, blocks)))  # fmt: skip
    names = tuple((name, p.numel()) for name, p in net.named_parameters() if id(p) not in head)
    patch_embed = net.patch_embed
    return ModelSpec(
        family=family, depth=len(blocks), widths=tuple(_site_width(block) for *_, block in blocks),
        heads=tuple(block.attn.num_heads for *_, block in blocks), stages=tuple(stage for stage, *_ in blocks),
        patch=patch_embed.patch_size[0], grid=tuple(patch_embed.grid_size),
        prefix_tokens=getattr(net, "num_prefix_tokens", 0), embed_dim=patch_embed.proj.out_channels,
        backbone_params=sum(size for _, size in names), sites=tuple(sites), names=names,
    )  # fmt: skip


def producer_path(path: str, family: str) -> str | None:
    """The path of the module whose output is the input of the block layer at `path` as it stands; None where none is."""
    for layer, before in PRODUCERS.items():
        if path.endswith(f".{layer}") and (family == "vit" or layer != "attn.qkv"):
            return path.removesuffix(layer) + before
    return None


def _blocks(net: Any, family: str) -> Iterator[tuple[int, str, Any]]:
    if family == "vit":
        for i, block in enumerate(net.blocks):
            yield 0, f"blocks.{i}", block
    else:
        for s, stage in enumerate(net.layers):
            for j, block in enumerate(stage.blocks):
                yield s, f"layers.{s}.blocks.{j}", block


def _site_width(block: Any) -> int:
    return int(block.norm1.normalized_shape[0])


def _block_sites(path: str, block: Any, index: int, stage: int) -> Iterator[Site]:
    for role, tail in BLOCK_PATHS.items():
        try:
            module = block.get_submodule(tail)
        except AttributeError:
            raise UserError(
                f"{path} ({type(block).__name__}) has no {tail}; this timm block layout is not supported"
            ) from None
        heads = block.attn.num_heads if role in ("qkv", "proj") else None
        site = _site(role, f"{path}.{tail}", module, stage=stage, block=index, heads=heads)
        yield site
        if role == "qkv":
            third = site.d_out // 3
            for c, chunk in enumerate("qkv"):
                yield Site(chunk, site.path, "linear", site.d_in, third, site.bias, stage, index, heads,
                           rows=(c * third, (c + 1) * third))  # fmt: skip


def _outer_sites(net: Any, family: str) -> Iterator[Site]:
    yield _site("embed", "patch_embed.proj", net.patch_embed.proj)
    if not isinstance(net.patch_embed.norm, nn.Identity):
        yield _site("embed_norm", "patch_embed.norm", net.patch_embed.norm)
    if family == "swin":
        for s, stage in enumerate(net.layers):
            if hasattr(stage.downsample, "reduction"):
                yield _site("reduction_norm", f"layers.{s}.downsample.norm", stage.downsample.norm, stage=s)
                yield _site("reduction", f"layers.{s}.downsample.reduction", stage.downsample.reduction, stage=s)
    if not isinstance(net.norm, nn.Identity):
        yield _site("final_norm", "norm", net.norm, stage=len(net.layers) - 1 if family == "swin" else 0)


def _site(
    role: str, path: str, module: Any, stage: int = 0, block: int | None = None, heads: int | None = None
) -> Site:
    if isinstance(module, nn.Linear):
        kind, d_in, d_out = "linear", module.in_features, module.out_features
    elif isinstance(module, nn.Conv2d):
        kind, d_in, d_out = "conv", module.weight[0].numel(), module.out_channels
    else:
        kind, d_in, d_out = "norm", module.normalized_shape[0], module.normalized_shape[0]
    return Site(role, path, kind, d_in, d_out, module.bias is not None, stage, block, heads)


def _before(site: Site, blocks: list[tuple[int, str, Any]]) -> float:
    """Sort key of a site outside blocks: patch merging comes before its stage's first block, the final norm last."""
    if site.role == "final_norm":
        return float(len(blocks))
    first = next(i for i, (stage, *_) in enumerate(blocks) if stage == site.stage)
    return first - (0.6 if site.role == "reduction_norm" else 0.5)
