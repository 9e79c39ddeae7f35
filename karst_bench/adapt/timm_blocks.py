"""What timm's blocks are made of: where each class keeps its layers, and which of its places a method may use.

A class that is not listed here is refused by name: where its attention reads a weight itself, or its norms stand behind,
a wrapper in the usual place would be passed by without a word.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from karst_bench.errors import UserError

Parts = Mapping[str, tuple[str, ...]]  # role -> paths within the block

ATTENTION: Parts = {"qkv": ("attn.qkv",), "proj": ("attn.proj",)}
NORMS: Parts = {"norm1": ("norm1",), "norm2": ("norm2",)}
MLPS: Mapping[str, Parts] = {
    "Mlp": {"fc1": ("mlp.fc1",), "fc2": ("mlp.fc2",)},
    "GluMlp": {"fc1": ("mlp.fc1",), "fc2": ("mlp.fc2",)},
    "SwiGLU": {"fc1": ("mlp.fc1_g", "mlp.fc1_x"), "fc2": ("mlp.fc2",)},
    "GeGluMlp": {"fc1": ("mlp.w0", "mlp.w1"), "fc2": ("mlp.w2",)},
}
# they call qkv and proj as modules where neither the projections nor their biases stand apart (joined_qkv.py)
ATTENTIONS = (
    "Attention", "AttentionRope", "DiffAttention", "EvaAttention", "MaskUnitAttention", "RelPosAttention", "WindowAttention",
)  # fmt: skip


@dataclass(frozen=True)
class Half:
    """One residual half of a block: x + drop_path(u).

    stream: whose input is x, "" for the block itself, None where nothing has x as it is; after_norm: whether the sub-layer
    is given what `stream` gives (pre-norm), else what it is given (post-norm).
    """

    drop_path: str
    stream: str | None
    after_norm: bool


PRE_NORM = {"attn": Half("drop_path1", "norm1", True), "mlp": Half("drop_path2", "norm2", True)}
POST_NORM = {"attn": Half("drop_path1", "attn", False), "mlp": Half("drop_path2", "mlp", False)}


@dataclass(frozen=True)
class BlockLayout:
    """What is known of one class of blocks.

    parallel: it has neither attn nor mlp, but several of them (`many`) or both in one projection (`fused`); fixed_tokens: why
    no token can join, "" where one can; splits: whether it is x + attn(norm1 x), then x + mlp(norm2 x), each through timm's
    layer scale.
    """

    halves: Mapping[str, Half] = field(default_factory=lambda: PRE_NORM)
    parallel: str = ""
    fixed_tokens: str = ""
    splits: bool = False


RELATIVE = "attention in this model has a position bias for each pair of patches and none for other tokens"

BLOCKS: Mapping[tuple[str, str], BlockLayout] = {
    ("vision_transformer", "Block"): BlockLayout(splits=True),
    ("vision_transformer", "ResPostBlock"): BlockLayout(POST_NORM),
    ("vision_transformer", "ParallelThingsBlock"): BlockLayout({}, parallel="many"),
    ("vision_transformer", "ParallelScalingBlock"): BlockLayout({}, parallel="fused"),
    ("vision_transformer", "DiffParallelScalingBlock"): BlockLayout({}, parallel="fused"),
    ("eva", "EvaBlock"): BlockLayout(),
    ("eva", "EvaBlockPostNorm"): BlockLayout(POST_NORM),
    ("beit", "Block"): BlockLayout(fixed_tokens=RELATIVE),
    ("vision_transformer_relpos", "RelPosBlock"): BlockLayout(fixed_tokens=RELATIVE),
    ("vision_transformer_relpos", "ResPostRelPosBlock"): BlockLayout(POST_NORM, fixed_tokens=RELATIVE),
    ("swin_transformer", "SwinTransformerBlock"): BlockLayout(),
    ("swin_transformer_v2", "SwinTransformerV2Block"): BlockLayout(
        {"attn": Half("drop_path1", "", False), "mlp": Half("drop_path2", "mlp", False)},
        fixed_tokens="attention in this model works in windows, with a position bias for exactly the patches of a window",
    ),
    ("hiera", "HieraBlock"): BlockLayout(
        {"attn": Half("drop_path1", None, True), "mlp": Half("drop_path2", "norm2", True)},
        fixed_tokens="this model groups its tokens into mask units and pools them between stages",
    ),
}  # fmt: skip


def layout_of(block: nn.Module, path: str) -> BlockLayout:
    """What is known of a block. Raises: UserError, naming the class, where its blocks, attention or MLP are unknown."""
    kind = type(block)
    layout = BLOCKS.get((kind.__module__.removeprefix("timm.models."), kind.__name__))
    if layout is None:
        raise UserError(
            f"methods cannot be attached to {path}, a {kind.__module__}.{kind.__name__}: where to find its norms, weights and "
            "residual branches is not described in karst_bench/adapt/timm_blocks.py; use a model with other blocks "
            f"({', '.join(sorted({n for _, n in BLOCKS}))}), or add its description there"
        )
    if not layout.parallel:
        for name, known in (("attn", ATTENTIONS), ("mlp", tuple(MLPS))):
            part = type(getattr(block, name))
            if part.__name__ not in known or not part.__module__.startswith("timm."):
                raise UserError(
                    f"methods cannot be attached to {path}.{name}, a {part.__module__}.{part.__name__}: where to find its layers "
                    f"is not described in karst_bench/adapt/timm_blocks.py; use a model with one of timm's {', '.join(known)}, or "
                    "add its description there"
                )
    return layout


def parts_of(block: Any, layout: BlockLayout) -> Iterator[tuple[str, str]]:
    """(role, path within the block) of the layers that are one linear or norm each."""
    if layout.parallel == "many":
        for n in range(block.num_parallel):
            yield from ((role, f"attns.{n}.{path}") for role, path in (*_flat(ATTENTION), ("norm1", "norm")))
            yield from ((role, f"ffns.{n}.{path}") for role, path in (*_flat(MLPS["Mlp"]), ("norm2", "norm")))
    elif layout.parallel == "fused":
        yield "norm1", "in_norm"
        if block.out_proj is None:
            yield from (("proj", "attn_out_proj"), ("fc2", "mlp_out_proj"))
    else:
        yield from _flat({**ATTENTION, **MLPS[type(block.mlp).__name__], **NORMS})


def _flat(parts: Parts) -> list[tuple[str, str]]:
    return [(role, path) for role, paths in parts.items() for path in paths]
