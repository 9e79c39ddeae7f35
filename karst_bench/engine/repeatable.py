"""Same seed, same digits on a GPU: steps by kernels that add up in a fixed order, as far as there are any."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from karst_bench.engine.streams import global_states, set_global_states

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class RepeatableStep(Generic[P, T]):
    """A step under torch's deterministic algorithms; once one of its operations has none, as it is, with one line.

    Attention's backward in bf16 is what changes from run to run without: its blocks add to dq in whichever order they end.
    """

    def __init__(self, step: Callable[P, T], device: torch.device) -> None:
        self._step, self._device = step, device
        self.repeatable = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        if not self.repeatable:
            return self._step(*args, **kwargs)
        drawn = self._drawn()
        try:
            with deterministic_algorithms():
                return self._step(*args, **kwargs)
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            self.repeatable = False
            log.warning("this run will not repeat itself to the last digit: %s", str(error).partition(",")[0].partition("\n")[0])
        if drawn is not None:
            set_global_states(drawn, self._device)
        return self._step(*args, **kwargs)

    def _drawn(self) -> dict[str, torch.Tensor] | None:
        """The generators' states; None while a graph is captured, whose generator may not be asked."""
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        return global_states(self._device)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """torch.use_deterministic_algorithms within, without the fill of fresh memory that comes with it; put back afterwards.

    An operation that has none raises RuntimeError. cuBLAS wants its workspace named in the environment (as large as its own).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fills = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fills
