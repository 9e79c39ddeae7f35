"""A recorded step is the step: same bits, whatever the batch's shape, from wherever a run goes on."""

import gc
import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from karst_bench.engine.callbacks import Callbacks
from karst_bench.engine.captured import CapturedForward, CudaRecorder
from karst_bench.engine.outcome import Interrupted
from karst_bench.engine.speed import COMPILE_FROM_STEPS, choose_speed
from karst_bench.engine.streams import Streams
from karst_bench.engine.train import fit
from karst_bench.errors import UserError

CPU = torch.device("cpu")


class StopAfter(Callbacks):
    """Asks for a stop after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def should_stop(self):
        self.left -= 1
        return self.left == 0


class Tape(TorchDispatchMode):
    """Writes down every operation on tensors, with the tensors and the Python numbers it was given."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.lines.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.lines:
            new = func(*args, **kwargs)
            if isinstance(new, torch.Tensor) and new.data_ptr() != out.data_ptr():
                out.copy_(new)
            elif isinstance(new, tuple | list):
                tree_map(
                    lambda old, now: old.copy_(now) if isinstance(old, torch.Tensor) else None, tuple(out), tuple(new)
                )


class TapeRecorder:
    """A CUDA graph on a CPU: the same operations on the same memory again, with whatever was a number on the host fixed."""

    def __init__(self):
        self.tapes = []

    def warm_up(self, work):
        for _ in range(3):
            work()

    def record(self, work):
        with Tape() as tape:
            work()
        self.tapes.append(tape)
        return tape.replay


class Broken(TapeRecorder):
    def record(self, work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


def run(net, plain, batches, recipe, *, seed=0, recorder=None, device=CPU, **options):
    model = net().to(device)
    batches.x, batches.y = batches.x.to(device), batches.y.to(device)
    out = fit(model, [plain], batches, recipe=recipe, precision="fp32", device=device, streams=Streams(seed),
              recorder=recorder, **options)  # fmt: skip
    return out, {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


CASES = [("adamw", None, None), ("sgd", None, 1e-2), ("adamw", (0.8, 1.0), None)]


@pytest.mark.parametrize(("optimiser", "mixing", "clip"), CASES)
def test_replays_are_the_steps_and_a_failed_recording_leaves_no_trace(
    net, plain, batches, recipe, caplog, optimiser, mixing, clip
):
    """A moving learning rate, dropout, the last, smaller batch, and labels mixed anew in every step."""
    r = recipe(optimiser=optimiser, clip_grad=clip)
    if mixing:
        batches.x = batches.x.view(18, 1, 2, 3)
    tape = TapeRecorder()
    captured, weights = run(net, plain, batches, r, mixing=mixing, recorder=tape)
    assert captured.captured and len(tape.tapes) == 2, "one recording for each shape of batch"
    with caplog.at_level(logging.WARNING):
        broken, other = run(net, plain, batches, r, mixing=mixing, recorder=Broken())
    assert not broken.captured and len(caplog.messages) == 1 and "stream is capturing" in caplog.messages[0]
    if mixing is None:
        assert captured.curves == broken.curves and same(weights, other)
    for name, weight in weights.items():  # a recorded share of a mixed batch is in single precision
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-6)
    eager, plainly = run(net, plain, batches, r, mixing=mixing)
    assert eager.curves["train_loss"] == pytest.approx(captured.curves["train_loss"], rel=1e-4)
    assert not eager.captured and plainly.keys() == weights.keys()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_resumed_in_the_middle_equals_unbroken(net, plain, batches, recipe, device):
    place = torch.device(device)

    def recorded(**options):
        recorder = CudaRecorder(place) if device == "cuda" else TapeRecorder()
        return run(net, plain, batches, recipe(), recorder=recorder, device=place, **options)

    whole, weights = recorded()
    for cut in (1, 5, 7):
        with pytest.raises(Interrupted) as stopped:
            recorded(callbacks=StopAfter(cut))
        resumed, after = recorded(seed=5, state=stopped.value.state)
        assert whole.captured and resumed.curves == whole.curves and same(after, weights), cut


def test_hooks_after_a_step_see_its_gradients(net, plain, batches, recipe):
    seen = {}

    class Looks(type(plain)):
        def after_step(self, step, total):
            seen[name].append([p.grad.clone() for p in self.parameters])

    for name, recorder in (("tape", TapeRecorder()), ("plain", Broken())):
        seen[name], method, model = [], Looks(), net()
        method.parameters = [p for p in model.parameters() if p.requires_grad]
        fit(
            model,
            [method],
            batches,
            recipe=recipe(epochs=2),
            precision="fp32",
            device=CPU,
            streams=Streams(0),
            recorder=recorder,
        )
    assert len(seen["tape"]) == 2 * len(batches)
    for ours, theirs in zip(seen["tape"], seen["plain"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_captured_pass_is_the_pass(net):
    model, tape = net().eval(), TapeRecorder()
    with torch.no_grad():
        forward = CapturedForward(model, tape)
        for x in torch.randn(3, 4, 6), torch.randn(1, 2, 6):
            for batch in x:
                assert torch.equal(forward(batch), model(batch))
    assert len(tape.tapes) == 1, "another shape runs as it is"


@pytest.mark.gpu
def test_what_a_recording_reads_lives_as_long_as_it():
    device = torch.device("cuda")

    def recorded():
        one, total = torch.ones(1 << 20, device=device), torch.zeros(1 << 20, device=device)

        def work():
            total.add_(one)

        recorder = CudaRecorder(device)
        recorder.warm_up(work)
        return recorder.record(work), total

    replay, total = recorded()
    gc.collect()
    torch.cuda.empty_cache()
    others = torch.full((1 << 20,), torch.nan, device=device)
    before = total.clone()
    replay()
    assert torch.equal(total, before + 1) and bool(others.isnan().all())


class Choosy:
    graphable = False


def test_speed_follows_device_method_and_length(plain):
    cuda, short, long = torch.device("cuda"), COMPILE_FROM_STEPS - 1, COMPILE_FROM_STEPS
    for wanted, device, methods, steps, recompute, chosen in [
        ("auto", CPU, [plain], long, False, "eager"), ("compile", CPU, [plain], short, False, "compile"),
        ("auto", cuda, [plain], short, False, "graph"), ("auto", cuda, [plain], long, False, "compile"),
        ("auto", cuda, [plain], long, True, "graph"), ("eager", cuda, [plain], long, False, "eager"),
        ("graph", cuda, [plain, Choosy()], long, False, "eager"), ("compile", CPU, [Choosy()], long, False, "eager"),
    ]:  # fmt: skip
        assert choose_speed(wanted, device, methods, steps=steps, recompute=recompute) == chosen
    with pytest.raises(UserError, match=r"speed=graph needs.*; use speed=auto"):
        choose_speed("graph", CPU, [plain], steps=1, recompute=False)
