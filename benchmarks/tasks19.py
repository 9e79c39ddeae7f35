"""All 19 tasks of VTAB-1K in their true sizes, one method, one process: seconds of each and of all. The images are random."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Keep, forget
from benchmarks.phases import run_in_mode
from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import options

PICTURES = 100  # files of a split; the lists name each several times, so that the disk holds them
ALL = "all, decoding counted"


def measured(
    tasks: Sequence[str] | None = None, shrink: int = 1, more: Sequence[str] = (), keep: Keep = forget,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """{what, rows}; the first task compiles for all. shrink: a part of every test split alone, to try the program out.
    before: the rows of a process that was cut off, whose tasks are not run again."""
    rows: dict[str, Any] = {name: row for name, row in (before or {}).items() if name != ALL}
    result = {"what": f"19 tasks of true sizes, the first {len(rows)} in another process" if rows else
              "19 tasks of true sizes in one process", "rows": rows}  # fmt: skip
    names = [name for name in options("dataset") if name.startswith("vtab/")] if tasks is None else tasks
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        where = [f"paths.{name}={home / name}" for name in ("results", "outputs", "cache", "data")]
        for name in (name for name in names if name not in rows):
            words = ["method=karst", f"dataset={name}", "backbone.weights=none", "save_adapter=false", *where, *more]
            dataset = settings_of(words).dataset
            images = write_task(home / "data" / dataset["folder"], dataset["sizes"]["test"] // shrink, dataset["classes"])
            rows[name] = run_in_mode(words) | {"test_images": images}
            keep(result)
    rows[ALL] = {"wall_s": round(sum(row["wall_s"] for row in rows.values()), 1)}
    return result


def write_task(home: Path, test: int, classes: int) -> int:
    """A task as it lies on a disk: train800, val200 and as many test lines. Returns the last."""
    (home / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {}
    for part, count in {"train800": 800, "val200": 200, "test": test}.items():  # no image in two of them
        for number in range(PICTURES):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(home / "images" / f"{part}_{number:03d}.png")
        shown = [number % PICTURES for number in range(count)]
        lines[part] = [f"images/{part}_{number:03d}.png {number % classes}\n" for number in shown]
    lines["train800val200"] = lines["train800"] + lines["val200"]
    for name, listed in lines.items():
        (home / f"{name}.txt").write_text("".join(listed))
    return test
