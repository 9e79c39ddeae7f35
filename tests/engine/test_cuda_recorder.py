"""What a failed capture leaves behind, and what a recording holds: on a GPU, and by a stand-in for torch.cuda without one."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from karst_bench.engine.captured import CapturedForward, CudaRecorder
from karst_bench.engine.streams import Streams
from karst_bench.engine.train import fit

CPU = torch.device("cpu")


class Cuda:
    """The parts of torch 2.11's state that a capture changes. A capture that was invalidated ends in an error, and none of them
    is put back."""

    def __init__(self, monkeypatch):
        self.stream, self.taking, self.generator_captures, self.invalid = "main", [], False, False
        self.held, self.handles = {}, 0
        side = SimpleNamespace(device=CPU, wait_stream=lambda other: None)
        for name, stand_in in {
            "Stream": lambda device: side, "current_stream": lambda device=None: self.stream, "CUDAGraph": Graph,
            "graph": lambda graph, pool=None: Capture(self, graph, pool), "graph_pool_handle": self.new_pool,
            "set_stream": self.set_stream,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)

    def set_stream(self, stream):
        self.stream = stream

    def new_pool(self):
        self.handles += 1
        return self.handles

    def end(self, device, pool):
        if pool not in self.taking:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.taking.remove(pool)

    def release(self, device, pool):
        self.held[pool] -= 1


class Graph:
    def __del__(self):
        if hasattr(self, "release"):
            self.release()


class Capture:
    def __init__(self, cuda, graph, pool):
        self.cuda, self.graph, self.pool = cuda, graph, pool or cuda.new_pool()

    def __enter__(self):
        cuda = self.cuda
        assert cuda.held.get(self.pool, 1) > 0, "torch refuses a pool whose last graph is gone"
        cuda.held[self.pool] = cuda.held.get(self.pool, 0) + 1
        cuda.taking.append(self.pool)
        self.before, cuda.stream, cuda.generator_captures = cuda.stream, "capturing", True

    def __exit__(self, *_):
        cuda = self.cuda
        if cuda.invalid:
            cuda.invalid = False
            raise RuntimeError("operation failed due to a previous error during capture")
        cuda.taking.remove(self.pool)
        cuda.stream, cuda.generator_captures = self.before, False
        self.graph.release = lambda: cuda.release(CPU, self.pool)


def reads_on_the_host(cuda):
    cuda.invalid = True
    raise RuntimeError("operation not permitted when stream is capturing")


def raises_by_itself(cuda):
    raise RuntimeError("shapes differ")


@pytest.mark.parametrize("fails", [reads_on_the_host, raises_by_itself])
def test_after_a_failed_capture_cuda_is_as_before(fails, monkeypatch):
    """Another recording of the same recorder lives on, and one more may follow."""
    cuda = Cuda(monkeypatch)
    recorder = CudaRecorder(CPU)
    first = recorder.record(lambda: None)
    with pytest.raises(RuntimeError):
        recorder.record(lambda: fails(cuda))
    gc.collect()
    assert (cuda.stream, cuda.taking, cuda.generator_captures) == ("main", [], False)
    assert sum(cuda.held.values()) == 1, "the first one's pool, once"
    again = recorder.record(lambda: None)
    assert sum(cuda.held.values()) == 2
    del first, again
    gc.collect()
    assert not any(cuda.held.values())
    recorder.record(lambda: None)


class Replay:
    def __init__(self, work):
        self.work = work


class Kept:
    """A recorder that says whether its recordings are there still."""

    def __init__(self):
        self.made = []

    def warm_up(self, work):
        work()

    def record(self, work):
        work()
        replay = Replay(work)
        self.made.append(weakref.ref(replay))
        return lambda: replay.work()

    @property
    def alive(self):
        return [made for made in self.made if made() is not None]


@pytest.fixture
def uncollected():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_recordings_end_with_what_they_are_for(net, plain, batches, recipe):
    """And not with the next collection of garbage: the next run of a process needs their memory."""
    recorder = Kept()
    fit(net(), [plain], batches, recipe=recipe(), precision="fp32", device=CPU, streams=Streams(0), recorder=recorder)
    assert len(recorder.made) == 2 and not recorder.alive
    recorder, model = Kept(), net().eval()
    forward = CapturedForward(model, recorder)
    forward(torch.randn(4, 6))
    assert recorder.alive
    del forward
    assert not recorder.alive


class CutOff(Kept):
    def record(self, work):
        try:
            reads_on_the_host(SimpleNamespace())
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


def test_what_went_wrong_first_is_told(caplog):
    forward, x = CapturedForward(torch.neg, CutOff()), torch.ones(2)
    assert torch.equal(forward(x), -x) and torch.equal(forward(x), -x)
    (said,) = caplog.messages
    assert said == "evaluation could not be captured and runs as it is: operation not permitted when stream is capturing"


@pytest.mark.gpu
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_step_that_reads_on_the_host_runs_as_it_is(net, plain, batches, recipe, optimiser):
    """Dropout and all: the failed capture has taken nothing away. Another run of the process is captured again."""
    cuda = torch.device("cuda")
    batches.x, batches.y = batches.x.to(cuda), batches.y.to(cuda)

    class Reads(type(plain)):
        def penalty(self):
            return 0.01 * float(self.model.head.weight.square().sum())

    def run(method, recorder):
        method.model = model = net().to(cuda)
        fitted = fit(model, [method], batches, recipe=recipe(optimiser=optimiser), precision="fp32", device=cuda,
                     streams=Streams(0), recorder=recorder)  # fmt: skip
        return fitted, [p.detach().clone() for p in model.parameters()]

    eager, expected = run(Reads(), None)
    fallen_back, found = run(Reads(), CudaRecorder(cuda))
    assert not fallen_back.captured and fallen_back.curves["train_loss"] == pytest.approx(eager.curves["train_loss"], rel=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    captured, _ = run(plain, CudaRecorder(cuda))
    assert captured.captured
