"""Writes benchmarks/results/<name>.json, a page and a plot; `make bench` writes to outputs/benchmarks instead.

python -m benchmarks                               every part: training steps of ViT-B/16 and Swin-B, evaluation passes,
                                                   forms of one layer, scaling, phases of whole runs, steps on a GPU
python -m benchmarks only=steps model=vit_base_patch16_224 batch=2 rounds=15
python -m benchmarks only=phases model=             the small run alone
python -m benchmarks only=steps "rows=KARST, ours;full" out=/tmp/trial
python -m benchmarks only=gpu_steps gpu_batch=64 model=vit_base_patch16_224
only=A,B  model=A,B  batch=2,4  gpu_batch=32,64  rounds=15  depth=2 (blocks; the whole model without it)  rows=A;B  out=FOLDER
Set OMP_NUM_THREADS=1 where other programs share the machine: the CPU clock then measures this program alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.asked import EVERY, RESULTS, Asked
from karst_bench.cli.app import call

Count = Annotated[int, typer.Option(min=1)]


def bench(
    only: str = ",".join(EVERY), model: str = "vit_base_patch16_224,swin_base_patch4_window7_224", batch: str = "2,4",
    gpu_batch: str = "32,64", rows: str = "", rounds: Count = 15,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks; default: all.")] = None, out: Path = RESULTS,
) -> None:  # fmt: skip
    """Measure steps, evaluation passes, forms of one layer, scaling, phases of whole runs, and a GPU where there is one.

    Several values are parted by commas, rows by semicolons: only=steps "rows=KARST, ours;full" model=vit_base_patch16_224
    """
    asked = Asked.of(only=only, model=model, batch=batch, gpu_batch=gpu_batch, rows=rows, rounds=rounds, depth=depth, out=out)
    from benchmarks.measuring import measure

    measure(asked)


def main(words: Sequence[str]) -> int:
    """0 done, 2 bad input."""
    return call(bench, words, "python -m benchmarks")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
