"""A whole training step, or one forward pass, recorded once and replayed: on a GPU as one CUDA graph, one launch a step."""

import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from karst_bench.engine.mix import Mix
from karst_bench.engine.streams import global_states, set_global_states

log = logging.getLogger(__name__)

WARM_UP = 3  # runs before a recording: libraries choose their algorithms and workspaces, compilers compile
Step = Callable[[Tensor, Tensor, Mix | None], tuple[Tensor, Tensor, int]]


class Recorder(Protocol):
    """What can record tensor operations and do them again on the same memory."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Runs the work as often as is needed before it can be recorded."""
        ...

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """Records the work, whose results stay where they are, and returns what does it again."""
        ...


class CudaRecorder(Recorder):
    """CUDA graphs, those that live at a time in one memory pool: they are replayed one after the other and share what they free."""

    def __init__(self, device: torch.device) -> None:
        self._side = _side_stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._made: list[weakref.ref[_Replay]] = []

    def warm_up(self, work: Callable[[], object]) -> None:
        current = torch.cuda.current_stream(self._side.device)
        self._side.wait_stream(current)
        try:
            with torch.cuda.stream(self._side):
                for _ in range(WARM_UP):
                    work()
        finally:  # whoever goes on without a recording waits for what was begun
            current.wait_stream(self._side)

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        self._made = [made for made in self._made if made() is not None]
        if not self._made:  # torch gives a pool up with its last graph, and takes no other into it
            self._pool = torch.cuda.graph_pool_handle()
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._side.device)
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                work()
        except Exception:
            torch.cuda.set_stream(current)
            _end_capture(self._side.device, self._pool)
            raise
        self._made.append(weakref.ref(replay := _Replay(graph, work)))
        return replay


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all runs of a process: cuBLAS keeps 32 MiB for each stream that it was called on."""
    return torch.cuda.Stream(device)


def _end_capture(device: torch.device, pool: Any) -> None:
    """What torch leaves undone where a capture was cut off, as by a read on the host: its allocator would give out no memory
    that it keeps, and its generator (up to torch 2.11 at least) no number, "Offset increment outside graph capture"."""
    try:
        torch._C._cuda_endAllocateToPool(device.index, pool)
    except RuntimeError:  # it was done: the work raised by itself
        pass
    else:
        torch._C._cuda_releasePool(device.index, pool)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):  # one that ends well sets the generator back
        torch.zeros((), device=device)


@dataclass(frozen=True)
class _Replay:
    """A graph knows addresses, not tensors: what it reads and writes lives as long as the work that was recorded."""

    graph: torch.cuda.CUDAGraph
    work: Callable[[], object]

    def __call__(self) -> None:
        self.graph.replay()


@dataclass(frozen=True)
class _Recording:
    """A recorded step: where it reads its batch and leaves what it found, and the gradients that it writes."""

    x: Tensor
    y: Tensor
    mixed: Mix | None
    loss: Tensor
    hits: Tensor
    seen: int
    grads: list[tuple[nn.Parameter, Tensor | None]]
    replay: Callable[[], None]


class CapturedStep:
    """Does a step by replaying its recording, one for each shape of batch; runs it as it is where recording fails.

    The step must choose nothing in Python, read the learning rate from tensors and draw from the global generator. The runs
    that a recording takes leave no trace: weights, buffers, optimiser and generators are put back, so every step of a run,
    resumed or not, is a replay. `captured` says whether that holds so far.
    """

    def __init__(self, step: Step, live: Mapping[str, Tensor], optimizer: Optimizer, recorder: Recorder) -> None:
        """live: what training changes besides the optimiser's tensors, by name."""
        self._step, self._live, self._optimizer, self._recorder = step, live, optimizer, recorder
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._last: _Recording | None = None
        self.captured = True

    def __call__(self, x: Tensor, y: Tensor, mixed: Mix | None) -> tuple[Tensor, Tensor, int]:
        key = (x.shape, x.dtype, mixed is None)
        if self.captured and key not in self._recordings:
            self._try_to_record(key, x, y, mixed)
        if not self.captured:
            return self._step(x, y, mixed)
        recording = self._recordings[key]
        recording.x.copy_(x)
        recording.y.copy_(y)
        if recording.mixed is not None and mixed is not None:
            recording.mixed.second.copy_(mixed.second)
            assert isinstance(recording.mixed.share, Tensor)
            recording.mixed.share.fill_(mixed.share)
        if recording is not self._last:  # another recording, or a failed one, left its gradients
            for parameter, grad in recording.grads:
                parameter.grad = grad
            self._last = recording
        recording.replay()
        return recording.loss.clone(), recording.hits.clone(), recording.seen

    def close(self) -> None:
        """Lets go of the recordings and their memory, gigabytes that the next run of the process would miss."""
        self._recordings.clear()
        self._last = None

    def _try_to_record(self, key: tuple[object, ...], x: Tensor, y: Tensor, mixed: Mix | None) -> None:
        before = _Before(self._live, self._optimizer, x.device)
        try:
            self._recordings[key] = self._recorded(x, y, mixed)
        except Exception as error:
            self.captured = False
            log.warning("the training step could not be captured and runs as it is: %s", _reason(error))
        finally:
            before.restore()

    def _recorded(self, x: Tensor, y: Tensor, mixed: Mix | None) -> _Recording:
        x, y = x.clone(), y.clone()
        if mixed is not None:
            mixed = replace(mixed, second=mixed.second.clone(), share=torch.tensor(float(mixed.share), device=x.device))
        self._recorder.warm_up(lambda: self._step(x, y, mixed))
        found: list[tuple[Tensor, Tensor, int]] = []
        replay = self._recorder.record(lambda: found.append(self._step(x, y, mixed)))
        grads = [(p, p.grad) for group in self._optimizer.param_groups for p in group["params"]]
        return _Recording(x, y, mixed, *found[0], grads, replay)


class _Before:
    """Everything that a step changes, as it was."""

    def __init__(self, live: Mapping[str, Tensor], optimizer: Optimizer, device: torch.device) -> None:
        self._live, self._optimizer, self._device = live, optimizer, device
        self._tensors = {name: tensor.detach().clone() for name, tensor in live.items()}
        self._state = {
            (id(p), key): value.clone() for p, entry in optimizer.state.items() for key, value in entry.items()
            if isinstance(value, Tensor)
        }  # fmt: skip
        self._drawn = global_states(device)

    @torch.no_grad()
    def restore(self) -> None:
        """An optimiser's tensor that was not there is made 0, which is what it starts from."""
        for name, tensor in self._live.items():
            tensor.copy_(self._tensors[name])
        for p, entry in self._optimizer.state.items():
            for key, value in entry.items():
                if isinstance(value, Tensor):
                    known = self._state.get((id(p), key))
                    value.zero_() if known is None else value.copy_(known)
        set_global_states(self._drawn, self._device)


class CapturedForward:
    """A forward pass of one shape of batch, recorded at the first; other shapes, and all where recording fails, run as they are."""

    def __init__(self, forward: Callable[[Tensor], Tensor], recorder: Recorder) -> None:
        self._forward, self._recorder = forward, recorder
        self._x: Tensor | None = None
        self._found: list[Tensor] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The logits, good until the next call."""
        if self._x is None:
            self._x = x.clone()
            self._record(self._x)
        if self._replay is None or x.shape != self._x.shape:
            return self._forward(x)
        self._x.copy_(x)
        self._replay()
        return self._found[0]

    def _record(self, x: Tensor) -> None:
        forward, found = self._forward, self._found  # without self, which would live until garbage is collected
        try:
            self._recorder.warm_up(lambda: forward(x))
            self._replay = self._recorder.record(lambda: found.append(forward(x)))
        except Exception as error:
            log.warning("evaluation could not be captured and runs as it is: %s", _reason(error))


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first: a capture that was cut off ends in an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]
