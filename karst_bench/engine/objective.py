"""What a training step minimises: cross-entropy, and with PACE how far noise moves the logits."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from karst_bench.engine.evaluate import autocast
from karst_bench.engine.mix import Mix
from karst_bench.engine.recipe import Recipe
from karst_bench.errors import UserError
from karst_bench.nn.noise import PartNoise

MODES = ("pace", "lazy", "fast")


class StepLoss(NamedTuple):
    """The loss (0-d) before penalties, and the logits (b, classes) of the first b images, for counting hits."""

    loss: Tensor
    logits: Tensor


class CrossEntropy:
    """Mean cross-entropy, of mixed batches with both labels."""

    def __init__(self, recipe: Recipe, precision: str) -> None:
        self.smoothing, self.precision = recipe.label_smoothing, precision

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, mixed: Mix | None, step: int, index: Tensor | None) -> StepLoss:
        """Shapes: x (b, 3, H, W); y (b,); index (b,), the images' places in the training split, where they are asked for."""
        logits = self.forward(model, x)
        return StepLoss(self.cross_entropy(logits, y, mixed), logits)

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        """Logits in fp32."""
        with autocast(self.precision, x.device):
            logits: Tensor = model(x)
        return logits.float()

    def cross_entropy(self, logits: Tensor, y: Tensor, mixed: Mix | None) -> Tensor:
        """Mean over the batch, with the recipe's label smoothing; of a mixed batch: share L(y) + (1 - share) L(second)."""
        loss = cross_entropy(logits, y, label_smoothing=self.smoothing)
        if mixed is not None:
            other = cross_entropy(logits, mixed.second[: len(y)], label_smoothing=self.smoothing)
            loss = mixed.share * loss + (1 - mixed.share) * other
        return loss

    def places(self, order: Tensor) -> Tensor | None:
        """The places of an epoch's images in the training split, where a step is to be told them; order: the state of the
        generator that shuffles it."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continues from what `state` gave."""


@dataclass(frozen=True)
class PaceSettings:
    """conf/regularizer/pace.yaml. mode: pace | lazy | fast; every: of lazy, the steps between two consistency steps."""

    mode: str
    lam: float
    sigma: float
    every: int

    def __post_init__(self) -> None:
        if self.mode not in MODES or min(self.lam, self.sigma) < 0 or self.every < 1:
            raise UserError(f"regularizer.mode={self.mode}, lam={self.lam}, sigma={self.sigma}, every={self.every}; use mode of "
                            f"{', '.join(MODES)}, lam and sigma of 0 or more, every of 1 or more")  # fmt: skip

    @staticmethod
    def of(node: Any) -> "PaceSettings | None":
        """From the configuration's group; None for `none`. Raises: UserError for another regulariser or a bad value."""
        if node["name"] == "none":
            return None
        try:
            return PaceSettings(str(node["mode"]), float(node["lam"]), float(node["sigma"]), int(node["every"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"regularizer={node.get('name')} is not built or misses a value: {error}; use none or pace") from None


class Consistency(CrossEntropy):
    """CE(z1, y) + lambda mean_i |z1_i - z2_i|^2 over the two noised logit vectors of each image      [PACE, arXiv 2409.17137]

    `pace`: [x; x] in one pass, gradients through both. `lazy`: the same of the first half of the batch at every `every`-th
    step, from the first one on; cross-entropy of the whole batch at the others. `fast`: one pass; z2 is what this image
    gave an epoch before, a constant, 0 at the start. Noise is drawn at every step, also on the head: z = (1 + sigma_h n)
    head(h).
    """

    def __init__(self, recipe: Recipe, precision: str, settings: PaceSettings, head: PartNoise, memory: Tensor) -> None:
        super().__init__(recipe, precision)
        self.settings, self.head, self.memory = settings, head, memory

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, mixed: Mix | None, step: int, index: Tensor | None) -> StepLoss:
        if self.settings.mode == "fast":
            assert index is not None and mixed is None
            z1 = self._noised(model, x, copies=1)
            z2 = self.memory[index]
            loss = self.cross_entropy(z1, y, None) + self._distance(z1, z2)
            self.memory[index] = z1.detach()
            return StepLoss(loss, z1)
        if self.settings.mode == "lazy":
            if step % self.settings.every:
                z1 = self._noised(model, x, copies=1)
                return StepLoss(self.cross_entropy(z1, y, mixed), z1)
            x, y = x[: -(-len(x) // 2)], y[: -(-len(y) // 2)]
        z1, z2 = self._noised(model, torch.cat([x, x]), copies=2).chunk(2)
        return StepLoss(self.cross_entropy(z1, y, mixed) + self._distance(z1, z2), z1)

    def _noised(self, model: nn.Module, x: Tensor, *, copies: int) -> Tensor:
        with self.head.batch.holding(len(x), copies):
            z = self.forward(model, x)
            return z + self.head.added(z)

    def _distance(self, z1: Tensor, z2: Tensor) -> Tensor:
        return self.settings.lam * (z1 - z2).square().sum(1).mean()

    def places(self, order: Tensor) -> Tensor | None:
        if self.settings.mode != "fast":
            return None
        generator = torch.Generator()
        generator.set_state(order)
        return torch.randperm(len(self.memory), generator=generator)  # as Batches.epoch draws it

    def state(self) -> dict[str, Tensor]:
        return {"memory": self.memory.cpu().clone()} if self.settings.mode == "fast" else {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if "memory" in tensors:
            self.memory.copy_(tensors["memory"])
