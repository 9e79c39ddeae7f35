"""Whether the disk of the results has room for what a run will write, asked before its first step."""

import logging
import shutil
from pathlib import Path

from torch import nn

from karst_bench.engine.checkpoint import trained
from karst_bench.run.prepare import PreparedRun

log = logging.getLogger(__name__)
MOMENTS = {"adamw": 2, "sgd": 1}  # tensors that an optimiser keeps beside each trained one
RECORD = 1 << 20  # bytes: a record and a log file, with room to spare


def needed_bytes(model: nn.Module, prepared: PreparedRun) -> dict[str, int]:
    """Bytes by what they are for. A checkpoint is written beside the one that it replaces, so it counts twice."""
    settings = prepared.settings
    size = sum(tensor.nbytes for tensor in trained(model).values())
    copies = 1 + MOMENTS[settings.recipe.optimiser] + int(prepared.plan.choose)
    return {"record": RECORD, "checkpoint": 2 * copies * size, "adapter": size if settings.save_adapter else 0}


def warn_if_short(model: nn.Module, prepared: PreparedRun) -> None:
    """One warning where the results' disk has less room than a run writes; the record comes before all else."""
    folder, needed = _existing(prepared.settings.paths.results), needed_bytes(model, prepared)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if free < sum(needed.values()):
        parts = ", ".join(f"{what} {_shown(size)}" for what, size in needed.items() if size)
        log.warning(
            "%s has %s free, this run writes up to %s (%s): free some space there or choose another with paths.results=",
            folder, _shown(free), _shown(sum(needed.values())), parts,
        )  # fmt: skip


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
