"""`karst-bench reproduce`: a recorded run is run again from its record alone, and a difference is called one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from karst_bench.cli.app import main
from karst_bench.config.compose import settings_of
from karst_bench.errors import UserError
from karst_bench.records import identity
from karst_bench.records import record as schema
from karst_bench.records.record import RunRecord
from karst_bench.run.pipeline import run
from karst_bench.run.reproducing import (
    Reproduced,
    _seeds,
    chosen_records,
    in_recorded_mode,
    recorded_settings,
    reproduce,
)

WORDS = ["method=lora", "method.r=2", "dataset=mini/digits", "backbone=vit_mini", "backbone.model_args.depth=1",
         "backbone.weights=none", "recipe.epochs=1", "recipe.batch=500", "threads=1", "device=cpu", "protocol=val",
         "save_adapter=false"]  # fmt: skip


def places(results: Path, cache: Path) -> list[str]:
    """Where a run's record goes, and its decoded pictures, which are drawn once for all of these."""
    return [f"paths.results={results}", f"paths.cache={cache}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mini_cache: Path) -> Path:
    """A folder with the record of one short run."""
    results = tmp_path_factory.mktemp("recorded")
    (results / "cache").symlink_to(mini_cache)
    run(settings_of([*WORDS, *places(results / "results", results / "cache")]))
    return results / "results" / "runs" / "mini"


@pytest.fixture(scope="module")
def again(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    """That run, reproduced."""
    words = places(tmp_path_factory.mktemp("again"), folder.parents[2] / "cache")
    return reproduce(next(folder.glob("*.json")), words)


def test_the_same_machine_gives_the_same_bits(again: Reproduced) -> None:
    assert again.here.id == again.recorded.id and again.here.created is not again.recorded.created
    assert again.here.curves.train_loss == again.recorded.curves.train_loss
    assert again.equal and again.holds and again.verdict == "bit for bit"


def moved(record: RunRecord, points: float) -> RunRecord:
    """The record with another accuracy and another loss of its only epoch."""
    (loss,) = record.curves.train_loss
    value = record.metrics.accuracy()[1] + points
    metrics = replace(record.metrics, val_top1_last_pct=value, val_top1_best_pct=value)
    return replace(record, metrics=metrics, curves=replace(record.curves, train_loss=(loss + 1e-7,)))


@pytest.mark.parametrize(
    ("points", "others", "holds", "said"),
    [
        (0.0, (0.0, 1.0), False, "fewer than three seeds"),  # the losses differ: not the same bits, and little to judge by
        # of 0, 1, 2: mean 1, s = 1, t(0.975, 2) = 4.3027 (a printed table), times sqrt(4/3): 4.97
        (5.9, (0.0, 1.0, 2.0), True, "within the seeds: +5.90 points, from epoch 1 on"),
        (6.1, (0.0, 1.0, 2.0), False, "± 4.97 (95 %, 3 seeds)"),
        (-3.9, (0.0, 1.0, 2.0), True, "within the seeds: -3.90 points"),
        (-4.1, (0.0, 1.0, 2.0), False, "DIFFERS: -4.10 points"),
    ],
)
def test_a_difference_is_judged_by_the_recorded_seeds(
    again: Reproduced, points: float, others: tuple[float, ...], holds: bool, said: str
) -> None:
    value = again.recorded.metrics.accuracy()[1]
    found = Reproduced(again.recorded, moved(again.recorded, points), tuple(value + off for off in others))
    assert not found.equal and found.holds is holds
    assert said in found.text


def test_a_run_is_called_as_where_it_trained(again: Reproduced) -> None:
    config = again.recorded.config | {"also": {"name": "ssf"}, "regularizer": {"name": "pace"}}
    found = Reproduced(replace(again.recorded, config=config), again.here, ())
    assert settings_of([*WORDS, "also=ssf", "regularizer=pace"]).title in found.text
    older = {key: value for key, value in config.items() if key not in ("also", "regularizer")}
    assert f"  {config['method']['name']} on " in Reproduced(replace(again.recorded, config=older), again.here, ()).text


def test_what_is_not_the_same_around_the_runs_is_said(again: Reproduced) -> None:
    assert again.here.provenance.cpu_capability == torch.backends.cpu.get_cpu_capability()
    elsewhere = replace(again.here, provenance=replace(again.here.provenance, cpu_model="another", threads=7, commit="c" * 40))
    lines = Reproduced(again.recorded, elsewhere, ()).text.splitlines()[1:]
    assert any("processor" in line and "another" in line for line in lines)
    assert any("threads: recorded 1, here 7" in line for line in lines)
    assert any("commit" in line and "here ccccccc" in line for line in lines) and len(lines) == 3


def test_seeds_are_those_of_the_same_cell(folder: Path, again: Reproduced, tmp_path: Path) -> None:
    """Another seed counts, another rank does not."""

    def put(change: Callable[[dict[str, object]], dict[str, object]], points: float) -> None:
        config = again.recorded.config | change(dict(again.recorded.config))
        changed = replace(moved(again.recorded, points), config=config)
        record = replace(changed, id=identity.recomputed_id(changed))
        (tmp_path / f"{record.id}.json").write_text(schema.dumps(record))

    first = next(folder.glob("*.json"))
    (tmp_path / first.name).write_bytes(first.read_bytes())
    put(lambda config: {"seed": 1}, 1.0)
    put(lambda config: {"method": {**again.recorded.config["method"], "r": 4}}, 3.0)
    found = reproduce(tmp_path / first.name, places(tmp_path / "new", folder.parents[2] / "cache"))
    value = again.recorded.metrics.accuracy()[1]
    assert sorted(found.seeds) == pytest.approx([value, value + 1.0])


def test_repeats_of_a_few_shot_cell_are_its_splits(folder: Path, again: Reproduced, tmp_path: Path) -> None:
    """Each split has lists of its own; another number of shots is another cell."""
    few = settings_of(["method=lora", "dataset=mini/fs_glyphs", "backbone=vit_mini"]).as_config()
    made = []
    for shots, split, points in ((4, 0, 0.0), (4, 1, 1.0), (4, 2, 2.0), (8, 0, 5.0)):
        config = few | {"dataset": {**few["dataset"], "shots": shots, "split_seed": split}}
        data = replace(again.recorded.data, list_sha256=f"{shots}{split}" * 32)
        record = replace(moved(again.recorded, points), config=config, data=data)
        made.append(replace(record, id=identity.recomputed_id(record)))
        (tmp_path / f"{made[-1].id}.json").write_text(schema.dumps(made[-1]))
    found = Reproduced(made[0], moved(made[0], 1.0), _seeds(made[0], tmp_path))
    value = again.recorded.metrics.accuracy()[1]
    assert sorted(found.seeds) == pytest.approx([value, value + 1.0, value + 2.0])
    assert "within the splits: +1.00 points" in found.text and "(95 %, 3 splits)" in found.text


@pytest.mark.parametrize(
    ("there", "mode", "here", "speed"),
    [("NVIDIA H200", "compile", "cuda", "compile"), ("NVIDIA H200", "graph", "cuda", "graph"),
     ("NVIDIA H200", None, "cuda", "auto"), ("NVIDIA H200", "compile", "cpu", "auto"), ("cpu", "eager", "cuda", "auto")],
)  # fmt: skip
def test_a_run_of_a_gpu_is_reproduced_in_its_mode(again: Reproduced, there: str, mode: str | None, here: str, speed: str) -> None:
    own = again.recorded
    recorded = replace(own, provenance=replace(own.provenance, device=there), speed=replace(own.speed, mode=mode))
    assert in_recorded_mode(recorded_settings(own), recorded, here).speed == speed


def test_a_run_is_not_held_against_itself(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this very record"):
        reproduce(next(folder.glob("*.json")), places(folder.parents[1], folder.parents[2] / "cache"))


def test_places_may_be_said_and_nothing_else(again: Reproduced) -> None:
    settings = recorded_settings(again.recorded, ["paths.data=/data", "device=auto", "dataset.root=/photos"])
    assert (str(settings.paths.data), settings.device, settings.dataset["root"]) == ("/data", "auto", "/photos")
    assert settings.method["r"] == 2 and settings.paths.results.name == "reproduced" and not settings.save_adapter
    with pytest.raises(UserError, match=r"method\.r=4 would make it another run"):
        recorded_settings(again.recorded, ["method.r=4"])


def test_a_key_that_is_gone_matters_where_it_decided_something(again: Reproduced) -> None:
    gone = replace(again.recorded, config=again.recorded.config | {"compile": False})
    assert recorded_settings(gone) == recorded_settings(again.recorded)
    without = {key: value for key, value in gone.config.items() if key != "protocol"}
    with pytest.raises(UserError, match="runs it with other protocol"):
        recorded_settings(replace(gone, config=without))


def test_other_weights_are_refused_before_anything_is_trained(folder: Path, again: Reproduced, tmp_path: Path) -> None:
    other = replace(again.recorded, weights=replace(again.recorded.weights, sha256="0" * 64))
    other = replace(other, id=identity.recomputed_id(other))
    path = tmp_path / f"{other.id}.json"
    path.write_text(schema.dumps(other))
    with pytest.raises(UserError, match="backbone weights were 000000000000, here they are None"):
        reproduce(path, places(tmp_path / "r", folder.parents[2] / "cache"))
    assert not (tmp_path / "r" / "runs").exists()


def test_other_lists_of_a_drawn_set_are_refused_with_what_draws_it(folder: Path, again: Reproduced, tmp_path: Path) -> None:
    packages = again.recorded.provenance.packages | {"pillow": "9.9.9"}
    other = replace(again.recorded, data=replace(again.recorded.data, list_sha256="0" * 64),
                    provenance=replace(again.recorded.provenance, packages=packages))  # fmt: skip
    other = replace(other, id=identity.recomputed_id(other))
    path = tmp_path / f"{other.id}.json"
    path.write_text(schema.dumps(other))
    with pytest.raises(UserError, match=r"another experiment\. The set is drawn: recorded with pillow 9\.9\.9, here \d"):
        reproduce(path, places(tmp_path / "r", folder.parents[2] / "cache"))


def test_a_draw_is_the_same_twice_and_no_larger_than_the_folder(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number:016x}.json").touch()
    (tmp_path / "notes.json").touch()
    drawn = chosen_records([tmp_path], 3, 5)
    assert len(set(drawn)) == 3 and drawn == chosen_records([tmp_path], 3, 5)
    assert chosen_records([tmp_path], None, 0) == sorted(tmp_path.glob("0*.json"))
    with pytest.raises(UserError, match="there are 6 records"):
        chosen_records([tmp_path], 7, 0)
    with pytest.raises(UserError, match="no record there"):
        chosen_records([tmp_path / "none"], None, 0)


def test_the_command_prints_both_and_its_code_says_whether_they_agree(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", str(folder), "--sample", "1", *places(tmp_path, folder.parents[2] / "cache")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "bit for bit" in out and "1 runs: 1 bit for bit, 0 within the seeds, 0 that differ, 0 refused" in out
    assert main(["reproduce", str(folder), "recipe.lr=1"]) == 2


def test_a_record_that_is_refused_does_not_keep_the_others_from_running(
    folder: Path, again: Reproduced, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(again.recorded, weights=replace(again.recorded.weights, sha256="0" * 64))
    refused = tmp_path / "0000000000000000.json"
    refused.write_text(schema.dumps(replace(other, id=refused.stem)))
    words = [str(refused), str(folder), *places(tmp_path / "new", folder.parents[2] / "cache")]
    assert main(["reproduce", *words]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{refused.stem}  refused: ") and "bit for bit" in out
    assert "2 runs: 1 bit for bit, 0 within the seeds, 0 that differ, 1 refused" in out
    assert main(["reproduce", str(refused)]) == 2
