"""Blocks of the backbone's own kind at a fraction of its width, drawn anew or cut out of the backbone's."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.adapt.timm_compat import Attention, Block, Mlp, PatchMerging, SwinTransformerBlock, is_plain_layer_norm
from karst_bench.errors import MisfitError, UserError
from karst_bench.nn.model_spec import STANDARD, ModelSpec


class BackboneCuts:
    """What is kept of the backbone at 1/r of its width, by magnitude: one choice of channels a stage, the same in all its
    blocks, so that what one layer writes the next one reads.

    A channel's importance is the sum of squares of all weights that read or write it; of a head's q and k channels the
    product of their two rows' squares, of its v channels and of the MLP's hidden ones that of row and column.
    """

    def __init__(self, net: nn.Module, spec: ModelSpec, r: int) -> None:
        self.net, self.spec, self.r = net, spec, r
        for i, width in enumerate(spec.widths):
            if why := _unlike(net.get_submodule(spec.blocks[i])):
                raise MisfitError(
                    "the side network is made of narrow copies of the blocks, which are implemented for timm's standard ViT and "
                    f"Swin blocks, but {spec.blocks[i]} {why}; use a standard ViT, {STANDARD}, or another method"
                )
            if width % (r * spec.heads[i]):
                raise UserError(
                    f"method.r={r}: the side network would be 1/{r} as wide as the backbone, and {width} / {r} is no multiple of "
                    f"the {spec.heads[i]} heads of block {i}; use a divisor of {width // spec.heads[i]}"
                )
        self._channels: dict[int, Tensor] = {}

    def block(self, i: int, *, pruned: bool) -> nn.Module:
        """A block like block i: timm's own, with its heads, windows and shift, at 1/r of width and hidden width."""
        base: Any = self.net.get_submodule(self._path(i))
        side = _narrow_block(base, self.spec.widths[i] // self.r)
        if pruned:
            self._cut(base, side, self.channels(self.spec.stages[i]))
        return side

    def merging(self, stage: int, *, pruned: bool) -> nn.Module | None:
        """A patch merging like that before the stage, at 1/r of its widths; None where there is none."""
        base: Any = self.net.get_submodule(f"layers.{stage}").downsample if self.spec.family == "swin" else None
        if not isinstance(base, PatchMerging):
            return None
        side = PatchMerging(base.dim // self.r, base.out_dim // self.r)
        if pruned:
            read = torch.cat([self.channels(stage - 1) + corner * base.dim for corner in range(4)])
            _take(base.norm, side.norm, read)
            _take(base.reduction, side.reduction, self.channels(stage), read)
        return side

    @torch.no_grad()
    def channels(self, stage: int) -> Tensor:
        """The channels of this stage's residual stream that are kept, in order."""
        if stage not in self._channels:
            total: Any = 0.0
            for i in (i for i, own in enumerate(self.spec.stages) if own == stage):
                block: Any = self.net.get_submodule(self._path(i))
                total = total + _columns(block.attn.qkv) + _columns(block.mlp.fc1) + _rows(block.attn.proj) + _rows(block.mlp.fc2)
            self._channels[stage] = _largest(total, len(total) // self.r)
        return self._channels[stage]

    @torch.no_grad()
    def _cut(self, base: Any, side: Any, channels: Tensor) -> None:
        heads, d = base.attn.num_heads, base.attn.qkv.in_features
        q, k, v = _rows(base.attn.qkv).view(3, heads, -1)
        together = [q * k, q * k, v * _columns(base.attn.proj).view(heads, -1)]  # q and k meet channel by channel
        kept = [_largest(importance, importance.shape[-1] // self.r) for importance in together]
        offsets = torch.arange(heads, device=kept[0].device)[:, None] * (d // heads)
        rows = torch.cat([(index + offsets).flatten() + part * d for part, index in enumerate(kept)])
        hidden = _largest(_rows(base.mlp.fc1) * _columns(base.mlp.fc2), side.mlp.fc1.out_features)
        _take(base.norm1, side.norm1, channels)
        _take(base.norm2, side.norm2, channels)
        _take(base.attn.qkv, side.attn.qkv, rows, channels)
        _take(base.attn.proj, side.attn.proj, channels, rows[2 * d // self.r :] - 2 * d)
        _take(base.mlp.fc1, side.mlp.fc1, hidden, channels)
        _take(base.mlp.fc2, side.mlp.fc2, channels, hidden)
        for scale in ("ls1", "ls2"):
            if hasattr(getattr(base, scale, None), "gamma"):
                getattr(side, scale).gamma.copy_(getattr(base, scale).gamma[channels])
        if self.spec.family == "swin":
            side.attn.relative_position_bias_table.copy_(base.attn.relative_position_bias_table)

    def _path(self, i: int) -> str:
        return self.spec.blocks[i]


def _narrow_block(base: Any, width: int) -> nn.Module:
    norm: Any = type(base.norm1)
    shared: dict[str, Any] = {
        "mlp_ratio": base.mlp.fc1.out_features / base.mlp.fc1.in_features, "qkv_bias": base.attn.qkv.bias is not None,
        "norm_layer": partial(norm, eps=base.norm1.eps),
    }  # fmt: skip
    if isinstance(base, SwinTransformerBlock):
        windows: dict[str, Any] = {"window_size": base.window_size, "shift_size": base.shift_size}
        return SwinTransformerBlock(width, base.input_resolution, base.attn.num_heads, **windows, **shared)
    scale = 1.0 if hasattr(base.ls1, "gamma") else None
    return Block(width, base.attn.num_heads, init_values=scale, **shared)


def _unlike(block: Any) -> str:
    """What a narrow copy of this block would lack, "" where nothing."""
    if type(block) not in (Block, SwinTransformerBlock):
        return f"is of class {type(block).__module__.rpartition('.')[2]}.{type(block).__name__}"
    attn, mlp, norm = block.attn, block.mlp, block.norm1
    if type(block) is Block and type(attn) is not Attention:
        return f"has a {type(attn).__name__}"
    if type(mlp) is not Mlp or not is_plain_layer_norm(norm):
        return f"has a {type(norm if type(mlp) is Mlp else mlp).__name__}"
    found = [name for name in ("q_norm", "k_norm", "norm") if not isinstance(getattr(attn, name, nn.Identity()), nn.Identity)]
    found += ["a gate"] if getattr(attn, "gate", None) is not None else []
    found += ["a norm in its MLP"] if not isinstance(mlp.norm, nn.Identity) else []
    layers = (norm, attn.proj, mlp.fc1, mlp.fc2)
    found += ["layers without a bias"] if any(layer.bias is None for layer in layers) else []
    return f"has {' and '.join(found)}" if found else ""


def _rows(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().square().sum(1)


def _columns(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().square().sum(0)


def _largest(importance: Tensor, count: int) -> Tensor:
    """The places of the largest `count` along the last axis, in order."""
    return importance.topk(count).indices.sort().values


@torch.no_grad()
def _take(base: Any, side: Any, rows: Tensor, columns: Tensor | None = None) -> None:
    weight = base.weight[rows]
    side.weight.copy_(weight if columns is None else weight[:, columns])
    if base.bias is not None:
        side.bias.copy_(base.bias[rows])
