"""Adapters on the residual halves of a block, and what they read."""

from typing import Any

from torch import Tensor, nn

from karst_bench.nn.noise import PartNoise
from karst_bench.nn.precision import in_own_precision
from karst_bench.nn.reference import Reference, refuse_proxy, refuse_replica
from karst_bench.nn.transient import Transient


class InputRecorder(nn.Module):
    """Runs the base module and keeps what a Residual of the same forward pass reads: the residual stream that the module is
    given, as `block`, and what the sub-layer is given, as `norm`: this module's output (a norm), or its input (the sub-layer).
    """

    base: Any

    def __init__(self, base: nn.Module, *, after_norm: bool = True) -> None:
        super().__init__()
        self.base = base
        self.after_norm = after_norm
        self.seen = Transient()

    @property
    def weight(self) -> Tensor:
        """The norm's own; timm asks it for device and precision."""
        weight: Tensor = self.base.weight
        return weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self.base(x, *args, **kwargs)
        self.seen["block"], self.seen["norm"] = x, y if self.after_norm else x
        return y


class BlockInput(nn.Module):
    """A forward hook of a block that keeps the residual stream for a Residual, where no module within is given it as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Transient()

    def forward(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        refuse_proxy(arguments[0])
        self.seen["block"] = self.seen["norm"] = arguments[0]


class Residual(nn.Module):
    """A residual branch of a block with an adapter: u -> DropPath(u + f(t)) inside, DropPath(u) + DropPath'(f(t)) with a
    draw of its own (own_drop_path, of the block's rate), DropPath(u) + f(t) after drop-path.

    t is the branch's own output (`out`), its normalised input (`norm`; in a post-norm block, which has none, its input), the
    residual stream before it (`block`) or after it (`sum`). It stands where the block's drop-path stood. recorder: None where
    nothing but the output can be read. Shapes: u, t and f(t) (B, L, d), or (B, H, W, d) in Swin's attention half.
    """

    base: Any

    def __init__(self, base: nn.Module, recorder: InputRecorder | BlockInput | None) -> None:
        super().__init__()
        self.base = base
        self.fns = nn.ModuleList()
        self.places: list[tuple[str, str]] = []
        self.recorder = None if recorder is None else Reference(recorder)
        self.noise: PartNoise | None = None  # on what adapters give, in training

    def add(self, fn: nn.Module, reads: str, position: str) -> None:
        """One more adapter, applied after those that are there."""
        self.fns.append(fn)
        self.places.append((reads, position))

    def forward(self, u: Tensor) -> Tensor:
        if self.recorder is not None:
            refuse_replica(self)
        for fn, (reads, position) in zip(self.fns, self.places, strict=True):
            if position == "inside":
                u = u + self._noised(in_own_precision(fn, self._read(reads, u)))
        y: Tensor = self.base(u)
        for fn, (reads, position) in zip(self.fns, self.places, strict=True):
            if position != "inside":
                added = self._noised(in_own_precision(fn, self._read(reads, y)))
                y = y + (self.base(added) if position == "own_drop_path" else added)
        if self.recorder is not None:
            self.recorder.module.seen.clear()  # a kept activation would outlive its graph
        return y

    def _noised(self, a: Tensor) -> Tensor:
        return a if self.noise is None or not self.training else a + self.noise.added(a)

    def _read(self, reads: str, own: Tensor) -> Tensor:
        if reads == "out":
            return own
        assert self.recorder is not None, "the verb refuses what cannot be read"
        read: Tensor = self.recorder.module.seen["block" if reads == "sum" else reads]
        return read + own if reads == "sum" else read
