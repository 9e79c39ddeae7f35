"""How the price of KARST moves with batch, N, r and the size of the model: its step over the floor's, all tokens."""

from functools import partial
from typing import Any

import torch

from benchmarks.measure import interleaved, summary, training_step
from benchmarks.rows import CLASSES, Case, floor, karst

BLOCKS = 4  # the ratio does not depend on the number of blocks where every token counts in each
BASE = "vit_base_patch16_224"
BATCHES, KERNELS, RANKS = (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8, 16)
MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", BASE, "vit_large_patch16_224")


def measured(rounds: int) -> dict[str, Any]:
    """Ratios on ViT-B/16 with N 2, r 8, m 8 and batch 2, one of them changed at a time; models at batch 2."""
    points: dict[str, tuple[Case, dict[str, int]]] = {}
    points |= {f"batch {b}": (Case(BASE, b, BLOCKS), {}) for b in BATCHES}
    points |= {f"N {N}": (Case(BASE, 2, BLOCKS), {"N": N}) for N in KERNELS}
    points |= {f"r {r}": (Case(BASE, 2, BLOCKS), {"r": r}) for r in RANKS}
    points |= {f"model {name}": (Case(name, 2, BLOCKS), {}) for name in MODELS}
    rows = {name: _point(case, sizes, rounds) for name, (case, sizes) in points.items()}
    return {
        "what": "KARST's training step over the floor's, all tokens in every block", "blocks": BLOCKS, "rounds": rounds,
        "precision": "fp32", "rows": rows,
    }  # fmt: skip


def _point(case: Case, sizes: dict[str, int], rounds: int) -> dict[str, float]:
    nets = {"floor": floor(case), "KARST": karst(case, short=False, **sizes)}
    torch.manual_seed(1)
    x, y = torch.randn(case.batch, 3, 224, 224), torch.randint(CLASSES, (case.batch,))
    step = partial(training_step, x=x, y=y, autocast=False)
    return summary(interleaved({name: step(net) for name, net in nets.items()}, rounds), "floor")["KARST"]
