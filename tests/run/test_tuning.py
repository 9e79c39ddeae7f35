"""The search: default first, budget exact, nothing lost with a worker, and no way to the test split."""

import dataclasses
import functools
import multiprocessing
import os
import re
import signal
import time
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from optuna.pruners import NopPruner
from optuna.study import StudyDirection
from optuna.trial import TrialState

from karst_bench.cli import search as cli_search
from karst_bench.config.compose import compose, settings_of
from karst_bench.config.option_files import config_dir, options
from karst_bench.config.tuned import backbone_facts
from karst_bench.engine.outcome import DivergedError
from karst_bench.errors import UserError
from karst_bench.records import provenance
from karst_bench.run import pipeline, prepare, search_space, tuning
from karst_bench.run.journal import opened_study

FORK = multiprocessing.get_context("fork")
METHODS = [name for name in options("method") if name != "none"]


@pytest.fixture
def words(tmp_path):
    return ["method=karst", "dataset=mini/digits", f"paths.results={tmp_path}", "recipe.epochs=10"]


@pytest.fixture
def bowl(monkeypatch):
    """Runs that cost nothing: val top-1 is highest at lr 1e-3 and sigma 1, and is shown at every epoch."""
    real = functools.cache(lambda words: settings_of(words))

    def composed_once(words):
        """Composes the fixed words once; a trial's values are put in."""
        values = {w.partition("=")[0]: float(w.partition("=")[2]) for w in words if w.startswith(("recipe.lr", "recipe.wd",
                  "method."))}  # fmt: skip
        settings = real(tuple(word for word in words if word.partition("=")[0] not in values))
        method = {key.removeprefix("method."): value for key, value in values.items() if key.startswith("method.")}
        recipe = {key.removeprefix("recipe."): value for key, value in values.items() if key.startswith("recipe.")}
        return settings.replace(method=settings.method | method, recipe=dataclasses.replace(settings.recipe, **recipe))

    def run(settings, *, watchers):
        assert settings.protocol["name"] == "val"
        value = 90 - abs(settings.recipe.lr - 1e-3) * 5e3 - abs(settings.method["sigma"] - 1.0)
        for epoch in range(1, settings.recipe.epochs + 1):
            for watcher in watchers:
                watcher.on_check(epoch, "val200", value * epoch / settings.recipe.epochs)
        return SimpleNamespace(metrics=SimpleNamespace(val_top1_last_pct=value))

    monkeypatch.setattr(tuning, "run", run)
    monkeypatch.setattr(tuning, "settings_of", composed_once)


def states(worker, state):
    return worker.study.get_trials(states=(state,))


def test_a_regularizer_brings_its_own_space():
    plain, pace = (tuning.search(["method=lora", "dataset=mini/count", *more]).space for more in ([], ["regularizer=pace"]))
    assert set(pace) - set(plain) == {"regularizer.lam", "regularizer.sigma"}


@pytest.mark.parametrize("method", METHODS)
def test_every_default_lies_in_its_space(method):
    found = tuning.search([f"method={method}", "dataset=mini/count"])
    assert set(found.defaults) == set(found.space) >= {"recipe.lr"}


def test_the_default_is_trial_zero_and_never_beaten_downwards(words, bowl, tmp_path):
    worker = tuning.Worker(tuning.search(words), 12)
    worker.work()
    trials = worker.study.trials
    assert len(trials) == 12
    assert trials[0].params == dict(worker.search.defaults) and trials[0].state == TrialState.COMPLETE
    found = tuning.summary(worker)
    assert found["val_top1_pct"] >= found["default_val_top1_pct"] == trials[0].value
    again = tuning.Worker(tuning.search(words), 12)
    again.work()
    assert len(again.study.trials) == 12
    assert not list(tmp_path.rglob("*.json"))


def test_a_line_that_was_broken_off_is_left_out(words, bowl):
    """A worker was killed while it wrote; what Optuna writes next would stand behind it."""
    worker = tuning.Worker(tuning.search(words), 2)
    worker.work()
    journal = worker.search.folder / "journal.log"
    journal.write_bytes(journal.read_bytes() + journal.read_bytes()[:20])
    for size in (3, 4):
        tuning.Worker(tuning.search(words), size).work()
    assert len(tuning.Worker(tuning.search(words), 4).study.trials) == 4


@pytest.mark.parametrize("directions", ["[]", "[1]", "[2, 2]"])
def test_a_journal_that_searches_another_way_is_refused(directions, words, bowl):
    """Without a direction no trial would ever count, so that the search never ended; 1 means that the worst is the best."""
    journal = tuning.Worker(tuning.search(words), 1).search.folder / "journal.log"
    bent = re.sub(r'"directions": ?\[2\]', f'"directions": {directions}', journal.read_text())
    assert bent != journal.read_text()
    journal.write_text(bent)
    with pytest.raises(UserError, match=r"no journal of this search .*its directions are"):
        tuning.Worker(tuning.search(words), 1)


def test_a_journal_of_something_else_is_refused(words, bowl):
    journal = tuning.Worker(tuning.search(words), 1).search.folder / "journal.log"
    journal.write_text('{"op_code": 99}\n{}\n')
    with pytest.raises(UserError, match="no journal of this search"):
        tuning.Worker(tuning.search(words), 1)


def test_a_study_seeks_the_greatest_accuracy(tmp_path):
    study = opened_study(tmp_path / "journal", "s", {}, NopPruner())
    assert study.direction == StudyDirection.MAXIMIZE


def test_one_worker_is_reproducible(words, bowl, tmp_path):
    picked = []
    for name in ("a", "b"):
        worker = tuning.Worker(tuning.search([*words, f"paths.results={tmp_path / name}"]), 8)
        worker.work()
        picked.append([trial.params for trial in worker.study.trials])
    assert picked[0] == picked[1]


def test_bad_trials_are_pruned(words, bowl):
    worker = tuning.Worker(tuning.search(words), 20)
    worker.work()
    assert states(worker, TrialState.PRUNED)
    assert len(states(worker, TrialState.PRUNED)) + len(states(worker, TrialState.COMPLETE)) == 20


def _work(found, trials, entered):
    entered.set()
    tuning.Worker(found, trials).work()


def test_workers_share_a_budget(words, bowl):
    found = tuning.search(words)
    workers = [FORK.Process(target=_work, args=(found, 16, FORK.Event())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    study = tuning.Worker(found, 16).study
    assert len(study.trials) == 16 and study.trials[0].user_attrs == {"default": True}


def _hang(found, entered):
    def run(cfg, **_):
        entered.set()
        time.sleep(60)

    tuning.run = run
    tuning.Worker(found, 6).work()


def test_a_killed_worker_loses_no_trial(words, bowl):
    found, entered = tuning.search(words), FORK.Event()
    victim = FORK.Process(target=_hang, args=(found, entered))
    victim.start()
    assert entered.wait(60)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    worker = tuning.Worker(found, 6)
    worker.work()
    (lost,) = states(worker, TrialState.FAIL)
    assert lost.number == 0
    again = next(trial for trial in worker.study.trials if trial.user_attrs.get("replaces") == 0)
    assert again.params == lost.params == dict(found.defaults) and again.user_attrs["default"]
    assert len(states(worker, TrialState.COMPLETE)) + len(states(worker, TrialState.PRUNED)) == 6


def test_divergence_is_a_zero_and_other_errors_stop(words, monkeypatch):
    def diverges(cfg, **_):
        raise UserError("the loss is nan") from DivergedError()

    monkeypatch.setattr(tuning, "run", diverges)
    worker = tuning.Worker(tuning.search(words), 2)
    worker.work()
    assert [trial.value for trial in worker.study.trials] == [0.0, 0.0]

    def refuses(cfg, **_):
        raise UserError("no data")

    monkeypatch.setattr(tuning, "run", refuses)
    with pytest.raises(UserError, match="no data"):
        tuning.Worker(tuning.search(words), 3).work()


@pytest.mark.parametrize("word", ["protocol=last", "protocol=peek10", "tuned=paper", "action=evaluate"])
def test_forced_keys_cannot_be_given(words, word):
    with pytest.raises(UserError, match="leave it out"):
        tuning.search([*words, word])


@pytest.mark.parametrize("word", ["protocol.final=test", "protocol.checks=test", "protocol.train=all"])
def test_a_bent_protocol_is_refused(words, word):
    with pytest.raises(UserError, match="needs another name"):
        tuning.search([*words, word])


@pytest.mark.parametrize("bent", [{"train": "all"}, {"final": "test"}, {"checks": "test"}])
def test_a_protocol_that_reads_more_than_train_and_val_is_refused_whatever_its_name(bent):
    protocol = {"name": "val", "train": "fit", "checks": "val", "final": "val"}
    tuning.refuse_test(protocol)
    with pytest.raises(UserError, match="more than train and val"):
        tuning.refuse_test(protocol | bent)


def test_a_look_at_the_test_split_stops_the_search(words, monkeypatch):
    monkeypatch.setattr(tuning, "run", lambda settings, watchers: watchers[0].on_check(1, "test", 99.0))
    with pytest.raises(RuntimeError, match="shown the split test"):
        tuning.Worker(tuning.search(words), 1).work()


def test_given_keys_are_not_searched_and_wrong_spaces_refused(words):
    assert "recipe.lr" not in tuning.search([*words, "recipe.lr=0.02"]).space
    with pytest.raises(UserError, match="outside"):
        search_space.check_default("recipe.lr", 1.0, search_space.distribution("recipe.lr", {"low": 0.1, "high": 0.2}))
    with pytest.raises(UserError, match="write"):
        search_space.distribution("recipe.lr", {"from": 1})


def test_values_given_are_a_grid_each_point_once(words, bowl):
    found = tuning.search([*words, "recipe.lr=1e-3,1e-2,8e-3", "method.sigma=0.5,1.0"])
    assert [found.budget(asked) for asked in (None, 4, 50)] == [6, 4, 6]
    worker = tuning.Worker(found, found.budget(None))
    worker.work()
    tried = [(trial.params["recipe.lr"], trial.params["method.sigma"]) for trial in worker.study.trials]
    assert tried[0] == (1e-2, 1.0)
    assert sorted(tried) == [(lr, sigma) for lr in (1e-3, 8e-3, 1e-2) for sigma in (0.5, 1.0)]
    assert tuning.summary(worker)["values"] == {"recipe.lr": 1e-3, "method.sigma": 1.0}


def test_a_grid_holds_the_default_and_only_a_grid_caps_the_trials(words):
    with pytest.raises(UserError, match=r"default 0\.01.*add it"):
        tuning.search([*words, "recipe.lr=1e-3,8e-3"])
    assert [tuning.search(words).budget(asked) for asked in (None, 50)] == [30, 50]


class Closed:
    """Stands for a test split that nobody may open."""

    def __getattr__(self, name):
        raise AssertionError(f"the search asked the test split for {name}")

    def __len__(self):
        raise AssertionError("the search asked the test split for its size")


def test_a_search_trains_without_opening_the_test_split(words, one_block, mini_cache, tmp_path, monkeypatch):
    """The real pipeline, with a test split that raises at any touch."""
    real = prepare.load_task

    def trapped(*arguments, **named):
        task = real(*arguments, **named)
        return type(task)(**{**vars(task), "splits": dict(task.splits.items()) | {"test": Closed()}})

    monkeypatch.setattr(prepare, "load_task", trapped)
    short = ["recipe.epochs=1", *one_block, f"paths.cache={mini_cache}", "device=cpu", "threads=1"]
    worker = tuning.Worker(tuning.search([*words[:-1], *short]), 1)
    worker.work()
    assert worker.study.trials[0].value is not None
    with pytest.raises(AssertionError, match="asked the test split"):
        pipeline.run(settings_of([*words[:-1], *short, f"paths.results={tmp_path}"]))


def test_the_result_is_written_beside_others(words, bowl, tmp_path):
    table = tmp_path / "ours" / "karst.yaml"
    table.parent.mkdir()
    worker = tuning.Worker(tuning.search(words), 3)
    own = {"backbone": backbone_facts(worker.search.config["backbone"]), "values": {"mini/count": {"recipe.lr": 0.1}}}
    table.write_text("# head\n" + OmegaConf.to_yaml({"source": "x", "searched": [own | {"provenance": {}}]}))
    worker.work()
    tuning.write_tuned(worker, table)
    assert table.read_text().startswith("# python run.py method=karst dataset=mini/digits tuned=ours\n")
    (part,) = OmegaConf.to_container(OmegaConf.load(table))["searched"]
    assert part["values"]["mini/count"] == {"recipe.lr": 0.1}
    assert set(part["values"]["mini/digits"]) == set(worker.search.space)
    result = part["provenance"]["mini/digits"]
    assert result["split"] == "val" and result["trials"] == 3 and result["commit"] == provenance.collect().commit


def test_each_backbone_and_its_weights_have_their_own_values(words, bowl, tmp_path):
    table = tmp_path / "tuned" / "ours" / "karst.yaml"
    chosen = ["backbone=vit_mini", "backbone=swin_mini", "backbone.weights=none"]
    for seed, choice in enumerate(chosen):
        worker = tuning.Worker(tuning.search([*words, choice, f"seed={seed}"]), 1)
        worker.work()
        tuning.write_tuned(worker, table)
    parts = OmegaConf.to_container(OmegaConf.load(table))["searched"]
    found = [(*(part["backbone"][key] for key in ("name", "weights")), part["provenance"]["mini/digits"]["seed"]) for part in parts]
    assert found == [("vit_mini", "pretrained", 0), ("swin_mini", "pretrained", 1), ("vit_mini", "none", 2)]
    for seed, choice in enumerate(chosen):
        found = compose([*words, choice, "tuned=ours"])
        assert dict(found.tuned["values"]) == parts[seed]["values"]["mini/digits"]


def test_a_study_is_made_a_table_without_another_trial(words, bowl, tmp_path, capsys):
    tuning.Worker(tuning.search(words), 2).work()
    assert cli_search.tune(words, trials=None, workers=1, table=None, join=False, write=True) == 0
    assert "best of 2" in capsys.readouterr().out
    assert (tmp_path / "tuned" / "ours" / "karst.yaml").is_file()
    assert len(tuning.Worker(tuning.search(words), 2).study.trials) == 2


def test_a_tracked_table_is_not_rewritten(words, bowl):
    worker = tuning.Worker(tuning.search(words), 1)
    worker.work()
    table = config_dir() / "tuned" / "ours" / "karst.yaml"
    before = table.read_bytes()
    with pytest.raises(UserError, match="does not change"):
        tuning.write_tuned(worker, table)
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("workers", "words", "set_outside", "added"),
    [(4, ["seed=0"], {}, ["threads=2"]), (1, ["seed=0"], {}, []), (4, ["threads=3"], {}, []),
     (4, ["seed=0"], {"OMP_NUM_THREADS": "1"}, [])],
)  # fmt: skip
def test_every_worker_has_its_share_of_the_cores(workers, words, set_outside, added, monkeypatch) -> None:
    """The first too, which begins the others."""
    asked: list[list[str]] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in set_outside.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.cpu_count", lambda: 8)

    def heard(given):
        asked.append(given)
        raise UserError("far enough")

    monkeypatch.setattr(tuning, "search", heard)
    with pytest.raises(UserError, match="far enough"):
        cli_search.tune(words, trials=None, workers=workers, table=None, join=False)
    assert asked == [[*words, *added]]
