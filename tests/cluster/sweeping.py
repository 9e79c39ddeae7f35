"""Sweeps of tiny runs, one of which can be held in the middle of its training."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from karst_bench.records import record as schema

ROOT = Path(__file__).resolve().parents[2]
TINY = ["dataset=mini/digits", "backbone.weights=none", "recipe.epochs=5", "recipe.batch=250", "threads=1", "checkpoint_s=0",
        "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}"]  # fmt: skip
METHOD_YAML = """
defaults: [bitfit@_here_]
_target_: karst_bench.methods.held.Held
name: held
"""
PATIENCE_S = 900.0  # on a machine that others keep busy


@dataclass
class Sweep:
    """The words of a sweep in a folder of its own, with the method `held` as a plug-in."""

    folder: Path
    cache: Path
    lease_s: float = 300.0
    began: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def hold(self) -> Path:
        return self.folder / "hold"

    def command(self, *more: str) -> list[str]:
        """What a person would type."""
        paths = [f"paths.results={self.results}", f"paths.cache={self.cache}", f"paths.outputs={self.folder / 'outputs'}"]
        return [sys.executable, "-m", "karst_bench", "run", "-m", *TINY, *paths, f"lease_s={self.lease_s}", *more]

    def begin(self, command: list[str], environment: Mapping[str, str] = os.environ) -> "subprocess.Popen[str]":
        """Starts it; what it says is in `said`."""
        ours = {"KARST_BENCH_PLUGINS": str(self.folder / "plugin"), "KARST_BENCH_HOLD": str(self.hold), "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}  # fmt: skip  # Ray's own, 15, starves beside other programs
        with (self.folder / f"said.{len(self.began)}").open("w") as out:
            process = subprocess.Popen(command, env=dict(environment) | ours, cwd=self.folder, stdout=out, stderr=out, text=True)
        self.began.append(process)
        return self.began[-1]

    def said(self) -> str:
        """What everything that was begun said."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("said.*")))

    def held(self) -> tuple[str, int]:
        """(machine, process) of the run that stands still, when it does."""
        until = time.monotonic() + PATIENCE_S
        while not (file := self.hold / "held").exists() or not file.read_text():
            assert time.monotonic() < until and all(p.poll() is None for p in self.began), self.said()
            time.sleep(0.2)
        machine, pid = file.read_text().split()
        return machine, int(pid)

    def let_go(self) -> None:
        (self.hold / "go").touch()

    def records(self) -> dict[str, Any]:
        """By id, what must not differ between a run that was disturbed and one that was not."""
        found = [schema.load(path) for path in sorted((self.results / "runs" / "mini").glob("*.json"))]
        return {one.id: (one.metrics, one.curves, one.counts) for one in found}

    def begun(self) -> list[int]:
        """How often each run was begun, by its log."""
        logs = sorted((self.results / "logs" / "mini").glob("*.log"))
        return [sum(" karst_bench: on " in line for line in log.read_text().splitlines()) for log in logs]
