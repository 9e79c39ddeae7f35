"""python tests/run/many_cells.py [cells=500]: one process runs them one after the other; printed is what it holds after some.

Six methods on the smallest ViT and an embedded task, another seed each time: set-up, training, checks, evaluation, adapter,
record, and every second sweep forced. Held: resident memory after garbage collection.
"""

import dataclasses
import gc
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from karst_bench.config.compose import settings_of
from karst_bench.run import pipeline

METHODS = ("karst", "lora", "vpt_deep", "bitfit", "linear", "spt_lora")
TINY = ["dataset=mini/digits", "backbone.weights=none", "recipe.epochs=2", "recipe.batch=500", "threads=1", "precision=fp32",
        "protocol=peek10", "checkpoint_s=0",
        "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}"]  # fmt: skip
LOOKS = (20, 100, 200, 300, 400, 500)
SETTLED = 200  # cells until the allocators have what all methods want
BOUND_MB = 32  # from there on


def held_mb() -> float:
    """Resident memory of this process in MiB."""
    gc.collect()
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def held_after(cells: int, folder: Path, looks: Sequence[int] = LOOKS) -> dict[int, float]:
    """{cells that were run: memory held then}."""
    places = [f"paths.{key}={folder / key}" for key in ("results", "outputs", "cache")]
    more = {"spt_lora": ["method.budget=900", "method.score_batches=2"]}
    composed = [settings_of([f"method={method}", *TINY, *places, *more.get(method, ())]) for method in METHODS]
    found = {}
    for number, (seed, settings) in enumerate(itertools.islice(itertools.product(range(cells), composed), cells), 1):
        pipeline.run(dataclasses.replace(settings, seed=seed // 2, force=bool(seed % 2)))
        if number in looks:
            found[number] = held_mb()
    return found


def main(words: Sequence[str]) -> int:
    """The exit code: 1 where it grew by more than BOUND_MB after SETTLED cells."""
    cells = int(dict(word.split("=", 1) for word in words).get("cells", "500"))
    with tempfile.TemporaryDirectory() as folder:
        found = held_after(cells, Path(folder))
    for number, held in found.items():
        print(f"{number:4} cells: {held:.0f} MiB")
    grown = max(held for number, held in found.items() if number >= SETTLED) - found[SETTLED]
    print(f"grown by {grown:.1f} MiB from the {SETTLED}th on; the bound is {BOUND_MB}")
    return int(grown > BOUND_MB)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
