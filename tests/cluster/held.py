"""A method for tests that stands still in a training step, once, until it is told to stop or to go on.

In the folder that KARST_BENCH_HOLD names, `held` says which process on which machine stands still; `go` lets it go on.
"""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from karst_bench import stopping
from karst_bench.engine import train
from karst_bench.methods.base import AdaptedModel, Artefact
from karst_bench.methods.bitfit import BitFit

STEP = 11  # of 20: in the third of five epochs


@dataclass(kw_only=True)
class Held(BitFit):
    """BitFit, held up."""

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        super().attach(model, artefact)
        if "KARST_BENCH_HOLD" not in os.environ:
            return
        real, calls = train.train_step, []

        def step(*arguments: object, **named: object) -> object:
            calls.append(1)
            if len(calls) == STEP:
                _stand_still(Path(os.environ["KARST_BENCH_HOLD"]))
            return real(*arguments, **named)  # type: ignore[arg-type]

        train.train_step = step  # type: ignore[assignment]


def _stand_still(folder: Path) -> None:
    try:
        with (folder / "held").open("x") as file:
            file.write(f"{platform.node()} {os.getpid()}")
    except FileExistsError:  # one run is enough
        return
    while not (folder / "go").exists() and stopping.asked() is None:
        time.sleep(0.05)
