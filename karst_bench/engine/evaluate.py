"""One pass over a split."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from karst_bench.engine.captured import CapturedForward, Recorder
from karst_bench.engine.streams import exact_convolutions
from karst_bench.errors import UserError
from karst_bench.methods.base import Batches
from karst_bench.nn.eval_mode import eval_mode
from karst_bench.stopping import watched

CAPTURE_FROM = 8  # batches of a pass; recording takes as long as about five


@dataclass(frozen=True)
class Answers:
    """What a model said of each image, in order, on the CPU: top1 and label (n,) int64, probability (n,) float32 of top1."""

    top1: Tensor
    probability: Tensor
    label: Tensor


@dataclass(frozen=True)
class Score:
    """top1_pct in percent of n images; loss is the mean cross entropy; answers where they were kept."""

    top1_pct: float
    n: int
    loss: float
    answers: Answers | None = None


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast on CPU and CUDA, or nothing for fp32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if precision == "fp32":
        return nullcontext()
    raise UserError(f"precision={precision} is unknown; use bf16 or fp32")


def top1(
    model: nn.Module, batches: Batches, *, precision: str, device: torch.device, recorder: Recorder | None = None,
    keep: bool = False,
) -> Score:  # fmt: skip
    """Accuracy and loss over the batches in order; the host waits for the device once, at the end.
    Between two batches is a safe point to stop.

    recorder: records the pass of a full batch, where there are enough of them to be worth it. keep: what was said of each
    image too.
    """

    def plain(x: Tensor) -> Tensor:
        with autocast(precision, device):
            logits: Tensor = model(x)
        return logits

    forward = CapturedForward(plain, recorder) if recorder is not None and len(batches) >= CAPTURE_FROM else plain
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    n = 0
    with eval_mode(model), exact_convolutions():
        for x, y in watched(batches.epoch(None)):
            logits = forward(x)
            top = logits.argmax(1)
            correct += (top == y).sum()
            if keep:
                kept.append((top, logits.float().softmax(1).gather(1, top[:, None])[:, 0], y))
            loss += cross_entropy(logits.float(), y, reduction="sum")
            n += len(y)
    if n == 0:
        raise UserError("evaluation: the split holds 0 images; check the split's list file")
    answers = Answers(*(torch.cat(part).cpu() for part in zip(*kept, strict=True))) if keep else None
    return Score(top1_pct=100.0 * correct.item() / n, n=n, loss=loss.item() / n, answers=answers)


def predict_logits(model: nn.Module, batches: Batches, *, precision: str, device: torch.device) -> Tensor:
    """Logits (n, classes), float32 on the CPU, in the order of the batches."""
    out = []
    with eval_mode(model), exact_convolutions():
        for x, _ in watched(batches.epoch(None)):
            with autocast(precision, device):
                logits = model(x)
            out.append(logits.float().cpu())
    return torch.cat(out)
