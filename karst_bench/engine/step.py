"""One training step, and which modules are in train mode while it runs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from karst_bench.engine.mix import Mix
from karst_bench.engine.objective import CrossEntropy
from karst_bench.engine.recipe import Recipe
from karst_bench.methods.base import Method


def train_step(
    model: nn.Module, x: Tensor, y: Tensor, *, methods: Sequence[Method], optimizer: Optimizer, recipe: Recipe,
    objective: CrossEntropy, mixed: Mix | None = None, step: int = 0, index: Tensor | None = None,
) -> tuple[Tensor, Tensor, int]:  # fmt: skip
    """One update; nothing in it waits for the device. Gradients stay until the next step, for `after_step`.

    Shapes: x (b, 3, H, W); y (b,) class indices; mixed: the other labels of a mixed batch. Returns the loss with
    penalties and the number of hits on y, both 0-d, and of how many images.
    """
    optimizer.zero_grad(set_to_none=True)
    loss, logits = objective(model, x, y, mixed=mixed, step=step, index=index)
    for method in methods:
        penalty = method.penalty()
        if isinstance(penalty, Tensor) or penalty:
            loss = loss + penalty
    torch.autograd.backward(loss)
    if recipe.clip_grad:
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], recipe.clip_grad)
    optimizer.step()
    return loss.detach(), (logits.detach().argmax(1) == y[: len(logits)]).sum(), len(logits)


def train_mode(model: nn.Module, backbone_mode: str) -> None:
    """Train mode for everything ("train"), or only for modules whose parameters all train ("eval").

    With "eval" the frozen backbone keeps its dropout and drop-path off, and a method's own dropout stays on.
    """
    if backbone_mode == "train":
        model.train()
        return
    parameters = list(model.parameters())
    if parameters and all(p.requires_grad for p in parameters):
        model.train()
        return
    model.training = any(p.requires_grad for p in model.parameters(recurse=False))
    for child in model.children():
        if any(p.requires_grad for p in child.parameters()):
            train_mode(child, backbone_mode)
        else:
            child.eval()
