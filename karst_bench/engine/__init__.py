"""Training and evaluation: knows Method and Batches; not Hydra, trackers or files."""

from karst_bench.engine.checkpoint import State
from karst_bench.engine.compiled import compile_step, uncompiled
from karst_bench.engine.evaluate import Batches, Score, predict, top1
from karst_bench.engine.meter import Meter, display
from karst_bench.engine.optim import Recipe
from karst_bench.engine.outcome import Check, DivergedError, Fit, Interrupted
from karst_bench.engine.protocols import EvaluationPlan, plan, tenths
from karst_bench.engine.stages import Call, Stage, plain, run_stages
from karst_bench.engine.step import train_step
from karst_bench.engine.streams import Streams, seeded
from karst_bench.engine.train import fit

__all__ = [
    "Batches",
    "Call",
    "Check",
    "DivergedError",
    "EvaluationPlan",
    "Fit",
    "Interrupted",
    "Meter",
    "Recipe",
    "Score",
    "Stage",
    "State",
    "Streams",
    "compile_step",
    "display",
    "fit",
    "plain",
    "plan",
    "predict",
    "run_stages",
    "seeded",
    "tenths",
    "top1",
    "train_step",
    "uncompiled",
]
