"""python benchmarks/bench_cache.py [images=1000] [size=224] [epochs=3] [root=outputs/bench_cache]

What decoding once is worth: a miniature VTAB-1K task of random 500 x 375 JPEGs is made under root=, then its 1000 training
images are decoded and cached, opened again, read for some epochs, and, for comparison, decoded anew in each epoch by the
same decoder. Prints one JSON object; times are medians in seconds, each as wall-clock and processor time (all threads),
the latter being the one to read on a busy machine.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from karst_bench.cli.app import generator
from karst_bench.config.datasets import dataset_configs
from karst_bench.data import load_task
from karst_bench.data.images import workers
from karst_bench.data.loader import SplitBatches
from karst_bench.data.task import Split, Task

BATCH = 64


def make(home: Path, images: int) -> None:
    """A task whose training pictures are random, smooth 500 x 375 JPEGs of quality 75; two test images."""
    rng = np.random.default_rng(0)
    counts = {"train800": images * 4 // 5, "val200": images - images * 4 // 5, "train800val200": images, "test": 2}
    for split, count in counts.items():
        folder = home / "images" / split
        folder.mkdir(parents=True)
        for number in range(count):
            coarse = rng.integers(0, 256, (38, 50, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375)).save(folder / f"{number:06d}.jpg")
        before = counts["train800"] if split == "val200" else 0
        lines = [f"images/{split}/{number:06d}.jpg {(before + number) % 47}\n" for number in range(count)]
        (home / f"{split}.txt").write_text("".join(lines))


def seconds(name: str, work: Callable[[], object], repeats: int = 1) -> dict[str, float]:
    """The median wall-clock and processor time of some calls."""
    wall, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return {f"{name}_s": statistics.median(wall), f"{name}_cpu_s": statistics.median(processor)}


def read(split: Split) -> None:
    """One shuffled pass of pixels alone, without normalising them."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    for index in order.split(BATCH):
        split.read(index)


def epoch(split: Split) -> None:
    """One shuffled pass of normalised batches, as training reads them."""
    batches = SplitBatches(split, batch=BATCH, mean=(0.5,) * 3, std=(0.5,) * 3, device="cpu")
    for images, _ in batches.epoch(torch.Generator().manual_seed(0)):
        images.sum()


def main(images: int = 1000, size: int = 224, epochs: int = 3, root: Path = Path("outputs/bench_cache")) -> None:
    """Measure what decoding once is worth, and print one JSON object."""
    shutil.rmtree(root, ignore_errors=True)
    make(root / "vtab-1k" / "dtd", images)
    node = dataset_configs(("vtab",))["vtab/dtd"]

    def load(limit_gb: float) -> Task:
        return load_task(node, data_root=root, cache_gb=limit_gb, cache_root=root / "cache", size=size)

    def open_split() -> Split:
        return load(10).splits["train800val200"]

    first = seconds("first_open", open_split)
    split = open_split()
    epoch(split)
    files = sorted((root / "vtab-1k/dtd/images/train800val200").iterdir())
    found = {
        "images": images, "size": size, "threads": torch.get_num_threads(), "decoding_threads": workers(),
        **first, **seconds("second_open", open_split, 7),
        **seconds("cached_read", lambda: read(split), epochs),
        **seconds("decoded_read", lambda: read(streamed(split, files, size)), epochs),
        **seconds("cached_epoch", lambda: epoch(split), epochs),
        **seconds("decoded_epoch", lambda: epoch(streamed(split, files, size)), epochs),
    }  # fmt: skip
    for clock in ("s", "cpu_s"):
        for what in ("read", "epoch"):
            ratio = found[f"decoded_{what}_{clock}"] / found[f"cached_{what}_{clock}"]
            found[f"decoded_over_cached_{what}_{clock}"] = ratio
    print(json.dumps(found))
    shutil.rmtree(root)


def streamed(split: Split, files: list[Path], size: int) -> Split:
    """The same images, decoded whenever they are read."""
    from karst_bench.data.cache.splits import StreamSplit
    from karst_bench.data.images import FileSource
    from karst_bench.data.resize import Resize
    from karst_bench.data.sources.lists import ListEntry

    rows = [ListEntry(number + 1, str(file), int(split.labels[number])) for number, file in enumerate(files)]
    return StreamSplit(FileSource("bench", "train", rows, Path, Path("list")), Resize("vtab", size))


if __name__ == "__main__":
    generator(main)
