"""compile=true computes what the plain run computes; it has no say in what a run is."""

import pytest
import torch

from karst_bench.config.compose import settings_of
from karst_bench.engine.compiled import compile_step
from karst_bench.errors import UserError
from karst_bench.run import pipeline

SHORT = ["method=karst", "dataset=mini/digits", "recipe.epochs=1", "device=auto", "threads=1", "save_adapter=false"]


class Choosy:
    graphable = False


def test_a_method_with_choices_of_its_own_stays_eager():
    net = torch.nn.Linear(2, 2)
    assert not compile_step(net, [Choosy()], torch.device("cpu"))
    assert net._compiled_call_impl is None


def test_compile_and_recompute_exclude_each_other(tmp_path):
    with pytest.raises(UserError, match="leave out recompute"):
        pipeline.run(settings_of([*SHORT, "compile=true", "recompute=true", f"paths.results={tmp_path}"]))


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run(tmp_path):
    """Same id, same curve up to rounding: torch.compile fuses, it does not change the mathematics."""
    small = ["backbone.model_args.depth=2", "backbone.weights=none", f"paths.cache={tmp_path}"]
    records = [
        pipeline.run(settings_of([*SHORT, *small, f"compile={on}", f"paths.results={tmp_path / on}"]))
        for on in ("false", "true")
    ]
    plain, compiled = records
    assert plain.id == compiled.id and plain.counts == compiled.counts
    assert compiled.curves.train_loss == pytest.approx(plain.curves.train_loss, rel=1e-4)
    assert compiled.metrics.test_top1_last_pct == pytest.approx(plain.metrics.test_top1_last_pct, abs=1.0)
