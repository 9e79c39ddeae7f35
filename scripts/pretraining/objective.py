"""What a small backbone is asked while it is pre-trained: classes, quarter turns, and what stands where in a scene."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from scripts.pretraining.scenes import COUNTS, FAMILIES, GRID

# weights of the losses beside the CIFAR-10 classes' (1.0)
TURN, COUNT, FAMILY, POSE, DENSE = 0.3, 0.3, 0.3, 1.0, 1.0
LABEL_SMOOTHING = 0.1
TURNED_SHARE = 4  # one photograph in four is turned by 0, 90, 180 or 270 degrees


class Questions(nn.Module):
    """Linear heads on a backbone's pooled feature (b, d) and on its last grid of tokens (b, g, g, d)."""

    def __init__(self, width: int, grid: int, classes: int) -> None:
        super().__init__()
        self.cells = GRID // grid
        self.pooled = nn.ModuleDict(
            {
                "classes": nn.Linear(width, classes),
                "turn": nn.Linear(width, 4),
                "count": nn.Linear(width, COUNTS),
                "family": nn.Linear(width, FAMILIES),
                "pose": nn.Linear(width, 4),
            }
        )
        self.dense = nn.Linear(width, 4 * self.cells**2)

    def ask(self, question: str, pooled: torch.Tensor) -> torch.Tensor:
        """The answer (b, k) to one question about the whole image."""
        answer: torch.Tensor = self.pooled[question](pooled)
        return answer

    def dense_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(b, g, g, d) -> (b, 4, 8, 8): each token answers for the cells that it covers."""
        b, g = tokens.shape[:2]
        out = self.dense(tokens).view(b, g, g, 4, self.cells, self.cells)
        return out.permute(0, 3, 1, 4, 2, 5).reshape(b, 4, GRID, GRID)


def features(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A timm ViT's or Swin's pooled feature (b, d) and its last tokens as a square grid (b, g, g, d)."""
    tokens = model.forward_features(x)
    pooled = model.forward_head(tokens, pre_logits=True)
    if tokens.ndim == 3:
        patches = tokens[:, model.num_prefix_tokens :]
        side = round(patches.shape[1] ** 0.5)
        tokens = patches.reshape(len(patches), side, side, -1)
    return pooled, tokens


def photo_loss(
    heads: Questions, pooled: torch.Tensor, labels: torch.Tensor, turns: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Losses of a batch of photographs; turns (t,) int64 are the quarter turns of its first t images."""
    return {
        "classes": functional.cross_entropy(heads.ask("classes", pooled), labels, label_smoothing=LABEL_SMOOTHING),
        "turn": TURN * functional.cross_entropy(heads.ask("turn", pooled[: len(turns)]), turns),
    }


def scene_loss(
    heads: Questions, pooled: torch.Tensor, tokens: torch.Tensor, want: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Losses of a batch of scenes; want: count, family (b,), pose (b, 4), dense (b, 4, 8, 8)."""
    dense = heads.dense_map(tokens)
    share = functional.binary_cross_entropy_with_logits(dense[:, :2], want["dense"][:, :2])
    lie = functional.mse_loss(dense[:, 2:], want["dense"][:, 2:])
    return {
        "count": COUNT * functional.cross_entropy(heads.ask("count", pooled), want["count"]),
        "family": FAMILY * functional.cross_entropy(heads.ask("family", pooled), want["family"]),
        "pose": POSE * functional.mse_loss(heads.ask("pose", pooled), want["pose"]),
        "dense": DENSE * (share + 3 * lie),
    }
