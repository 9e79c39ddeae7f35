"""unshare --user --map-root-user --mount python tests/run/small_disk.py: a run on a file system that is full after so many KiB.

A tmpfs of its own in a namespace of its own. From no room at all to more than the run needs, in steps of a page: printed is what
became of each run (exit code, record, adapter, predictions), and what did not hold: a traceback, a half-written file, a record
without its adapter that does not say so, a second run with room that is not whole. Exit code 1 where something did not.
"""

import dataclasses
import io
import logging
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from karst_bench.cli.outcome import exit_code
from karst_bench.config.compose import settings_of
from karst_bench.config.settings import Settings
from karst_bench.errors import UserError
from karst_bench.records.adapter_check import check_adapter
from karst_bench.records.store import Store
from karst_bench.run import pipeline

SIZE_KB, PAGE_KB = 4096, 4
TINY = ["method=bitfit", "dataset=mini/digits", "backbone.weights=none", "recipe.epochs=2", "recipe.batch=500", "threads=1",
        "checkpoint_s=0", "save_predictions=true", "precision=fp32",
        "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}"]  # fmt: skip


def filled(disk: Path, free_kb: int) -> Path:
    """A file that leaves so much room on the disk."""
    ballast = disk / "ballast"
    room = shutil.disk_usage(disk).free - free_kb * 1024
    ballast.write_bytes(bytes(max(0, room)))
    return ballast


def outcome(settings: Settings, disk: Path, free_kb: int) -> tuple[str, list[str]]:
    """(what became of a run with so much room, what did not hold)."""
    results = disk / f"results{free_kb}"
    mine = settings.replace(paths=dataclasses.replace(settings.paths, results=results))
    ballast, wrong = filled(disk, free_kb), []
    code, said = _run(mine)
    records = list((results / "runs").rglob("*.json"))
    whole = _whole(mine, wrong) if records else ""
    if code not in (0, 2) or (code == 0) != bool(records) or "Traceback" in said:
        wrong.append(f"exit code {code} with {len(records)} records: {said[-300:]}")
    if code == 2 and "No space left" not in said:
        wrong.append(f"it does not say why: {said[-300:]}")
    wrong += [f"left behind: {path.name}" for path in results.rglob("*.tmp")]
    ballast.unlink()
    again, said = _run(mine)
    if again != 0 or (code != 0 and _whole(mine, wrong) != "record, adapter, predictions"):
        wrong.append(f"with room, exit code {again}: {said[-300:]}")
    shutil.rmtree(results)
    return whole or f"exit code {code}, no record", wrong


def _run(settings: Settings) -> tuple[int, str]:
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger("karst_bench").addHandler(handler)
    try:
        return exit_code(lambda: _told(settings, heard), debug=False), heard.getvalue()
    finally:
        logging.getLogger("karst_bench").removeHandler(handler)


def _told(settings: Settings, heard: io.StringIO) -> int:
    try:
        pipeline.run(settings)
    except UserError as error:
        heard.write(str(error))
        raise
    return 0


def _whole(settings: Settings, wrong: list[str]) -> str:
    """What there is of a finished run; its record says what is missing."""
    store = Store(settings.paths.results, settings.suite)
    (path,) = (store.root / "runs" / "mini").glob("*.json")
    record = store.read(path.stem)
    if record.adapter is not None:
        check_adapter(store.root / record.adapter)
    there = {"adapter": record.adapter, "predictions": record.predictions}
    for name, file in there.items():
        if file is None and name not in " ".join(record.notes):
            wrong.append(f"the record does not say that it has no {name}")
        if file is not None and not (store.root / file).is_file():
            wrong.append(f"{name} is named, but not there")
    return ", ".join(["record", *(name for name, file in there.items() if file)])


def main() -> int:
    """The exit code; see above."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(disk)], check=True)
        try:
            settings = settings_of([*TINY, f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"])
            pipeline.run(settings.replace(paths=dataclasses.replace(settings.paths, results=Path(folder) / "warm")))
            found, wrong = [], []
            for free_kb in range(0, 400, PAGE_KB):
                became, odd = outcome(settings, disk, free_kb)
                found.append((free_kb, became))
                wrong += [f"{free_kb} KiB: {line}" for line in odd]
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    for became, count in Counter(became for _, became in found).items():
        rooms = [free_kb for free_kb, other in found if other == became]
        print(f"{count:3} runs, {min(rooms)} to {max(rooms)} KiB free: {became}")
    print("\n".join([f"{len(wrong)} things did not hold", *wrong]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
