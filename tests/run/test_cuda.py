"""On a GPU: every method on both families, step by step and as one graph, with the same digits each time."""

from pathlib import Path

import pytest

from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import options
from karst_bench.errors import UserError
from karst_bench.run import pipeline

pytestmark = pytest.mark.gpu
METHODS = [name for name in options("method") if name != "none"]
SEARCHED = ("noah", "glora")  # two stages and a search: half a minute a run


def trained(root: Path, *words: str) -> tuple[str, tuple[float, ...], float]:
    """(how steps ran, training losses, accuracy) of two epochs."""
    where = [f"paths.{name}={root / name}" for name in ("results", "outputs")] + [f"paths.cache={root.parent / 'cache'}"]
    run = ["dataset=mini/digits", "device=cuda", "recipe.epochs=2", "save_adapter=false"]
    record = pipeline.run(settings_of([*run, *where, *words]))
    accuracy = record.metrics.test_top1_last_pct
    assert accuracy is not None
    return record.speed.mode, tuple(record.curves.train_loss), accuracy


@pytest.mark.parametrize("backbone", ["vit_mini", "swin_mini"])
@pytest.mark.parametrize("name", [pytest.param(m, marks=pytest.mark.slow) if m in SEARCHED else m for m in METHODS])
def test_one_by_one_and_captured_are_the_same_run(name: str, backbone: str, tmp_path: Path):
    words = [f"method={name}", f"backbone={backbone}"]
    if name.startswith("spt"):
        words.append("method.budget=30000")  # of a backbone of a million parameters
    try:
        eager = trained(tmp_path / "eager", *words, "speed=eager")
    except UserError as refused:
        assert name in str(refused) or "method.r" in str(refused)
        return
    captured = [trained(tmp_path / f"graph{n}", *words, "speed=graph") for n in range(2)]
    assert captured[0] == captured[1]
    assert eager[0] == "eager" and eager[1:] == captured[0][1:]


@pytest.mark.parametrize("name", ["karst", "lora", "vpt_deep"])
def test_a_compiled_run_repeats_itself_and_learns_the_same(name: str, tmp_path: Path):
    eager = trained(tmp_path / "eager", f"method={name}", "speed=eager")
    first, again = (trained(tmp_path / f"compiled{n}", f"method={name}", "speed=compile") for n in range(2))
    assert first == again and first[0] == "compile"
    assert first[1] == pytest.approx(eager[1], rel=1e-3)
