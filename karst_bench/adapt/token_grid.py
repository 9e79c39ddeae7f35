"""How many rows and columns of patches a block is given: asked in the forward pass, as a model's input size may change."""

from typing import Any, Protocol, Self

from torch import Tensor, nn

from karst_bench.adapt.journal import Journal
from karst_bench.nn.reference import Reference, refuse_proxy, refuse_replica


class Grid(Protocol):
    """() -> (rows, columns)."""

    def __call__(self) -> tuple[int, int]: ...


class PatchGrid:
    """The patch embedding's own grid, or that of its last output where it takes images of any size."""

    def __init__(self, stem: nn.Module) -> None:
        self.stem: Reference[Any] = Reference(stem)
        self.last: tuple[int, int] | None = None

    @classmethod
    def of(cls, net: Any, journal: Journal) -> Self:
        """The grid of a ViT's patches."""
        grid = cls(net.patch_embed)
        if getattr(net, "dynamic_img_size", False):
            journal.hook(net.patch_embed.register_forward_hook(grid.note))
        return grid

    def note(self, stem: nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> None:
        """Forward hook: out (B, H, W, d) of a stem that leaves flattening to the model."""
        refuse_replica(stem)
        refuse_proxy(out)
        self.last = (int(out.shape[1]), int(out.shape[2])) if out.ndim == 4 else None

    def __call__(self) -> tuple[int, int]:
        rows, columns = self.stem.module.grid_size if self.last is None else self.last
        return int(rows), int(columns)


class BlockGrid:
    """The grid of what a block of a hierarchical model was given, (B, H, W, d)."""

    def __init__(self) -> None:
        self.last = (0, 0)

    @classmethod
    def of(cls, block: nn.Module, journal: Journal) -> Self:
        """The grid of this block's input."""
        grid = cls()
        journal.hook(block.register_forward_pre_hook(grid.note))
        return grid

    def note(self, block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Forward hook of the block."""
        refuse_replica(block)
        refuse_proxy(arguments[0])
        self.last = int(arguments[0].shape[1]), int(arguments[0].shape[2])

    def __call__(self) -> tuple[int, int]:
        return self.last
