"""The scoring stage of a run: a file of its own, made once, on the training split alone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from karst_bench import files, load_adapter
from karst_bench.adapt.backbone import build_backbone
from karst_bench.adapt.weights_file import find_weights
from karst_bench.config.compose import settings_of
from karst_bench.data.loader import SplitBatches
from karst_bench.engine.repeatable import RepeatableStep
from karst_bench.records.store import Store
from karst_bench.run import pipeline, scoring, training
from karst_bench.run.commands import act
from karst_bench.run.prepare import prepare
from karst_bench.run.scoring import score_stage

METHODS = ["spt_lora", "spt_adapter", "heat"]


@pytest.fixture
def plain_words(tmp_path: Path, mini_cache: Path, one_block: list[str]):
    common = ["dataset=mini/digits", "recipe.epochs=1", "recipe.batch=250", "threads=1", *one_block,
              f"paths.results={tmp_path}/results", f"paths.cache={mini_cache}"]  # fmt: skip
    return lambda *more: [*common, *more]


@pytest.fixture
def words(plain_words):
    return lambda *more: plain_words("method.score_batches=1", *more)


def test_killed_while_scoring_and_while_training_it_ends_the_same(words, tmp_path, monkeypatch) -> None:
    record = pipeline.run(settings_of(words("method=heat")))
    assert 0 < record.counts.stored_bits < 32 * record.counts.trainable_params  # one bit a scalar is what HEAT says
    assert record.artefact == f"artefacts/mini/{record.id}.score.safetensors"
    path = tmp_path / "results" / record.artefact
    assert files.sha256(path) == record.artefact_sha256
    (tmp_path / "results").rename(tmp_path / "before")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score_methods", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(settings_of(words("method=heat")))
    assert not path.exists() and not list((tmp_path / "results").rglob("*.tmp"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(settings_of(words("method=heat")))
    assert files.sha256(path) == record.artefact_sha256, "the stage before training is done"
    monkeypatch.setattr(scoring, "score_methods", lambda *_: pytest.fail("scored again"))
    again = pipeline.run(settings_of(words("method=heat")))
    assert (again.metrics, again.curves, again.artefact_sha256) == (record.metrics, record.curves, record.artefact_sha256)


@pytest.mark.parametrize("protocol", ["last", "val"])
def test_only_the_training_split_is_read(words, tmp_path, monkeypatch, protocol) -> None:
    """All images that the stage asks for, by the name of the split they come from; in batches of the method's own, unaugmented."""
    prepared = prepare(settings_of(words("method=spt_lora", f"protocol={protocol}", "method.score_batch=24")))
    assert prepared.plan.train in prepared.task.splits and len(prepared.task.splits) > 1
    opened, read = [], SplitBatches._read
    monkeypatch.setattr(SplitBatches, "_read", lambda self, *a: opened.append((self.split, len(a[0]))) or read(self, *a))
    score_stage(prepared, Store(tmp_path / "results", "mini"))
    assert opened and all(part is prepared.task.splits[prepared.plan.train] and size == 24 for part, size in opened)


def test_a_damaged_artefact_is_told_and_made_anew(words, tmp_path, caplog) -> None:
    prepared, store = prepare(settings_of(words("method=spt_lora"))), Store(tmp_path / "results", "mini")
    files.write(store.artefact_path(prepared.id, "score"), b"no artefact")
    found = score_stage(prepared, store)
    assert caplog.text.count("no whole checkpoint") == 1 and found.artefacts["spt_lora"].facts
    assert store.artefact(prepared.id, "score") is not None


def test_a_plain_method_has_no_stage(plain_words, tmp_path) -> None:
    record = pipeline.run(settings_of(plain_words("method=linear")))
    assert record.artefact is None
    assert not list(tmp_path.rglob("artefacts"))


@pytest.mark.parametrize("method", METHODS)
def test_describe_says_the_budget_and_no_artefact(capsys, method) -> None:
    backbone = "vit_b16" if method == "heat" else "vit_mini"
    result = act(settings_of([f"method={method}", f"backbone={backbone}", "action=describe"]))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["artefact"] is None
    assert result["trainable_params"] == (1_179_648 if method == "heat" else 400_000)
    assert method != "heat" or result["stored_bits"] == 1_179_648
    assert result["mergeable"] == (method != "spt_adapter")


def test_a_saved_adapter_carries_its_artefact(words, tmp_path) -> None:
    settings = settings_of(words("method=spt_adapter", "method.budget=3000"))
    record = pipeline.run(settings)
    prepared = prepare(settings)
    net = build_backbone(prepared.settings.backbone, classes=10, weights=find_weights(settings.backbone, settings.paths.weights))
    load_adapter(net, tmp_path / "results" / record.adapter)
    artefact = net._adapted_model.artefacts["spt_adapter"]
    assert artefact.facts["total"] == record.counts.trainable_params
    assert abs(record.counts.trainable_params - 3000) <= 500
    stored = score_stage(prepared, Store(tmp_path / "results", "mini")).artefacts["spt_adapter"]
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in artefact.tensors.items())


def test_scores_on_a_gpu_are_the_same_each_time(monkeypatch) -> None:
    """What is chosen by them hangs on their last digit: kernels that add up in a fixed order, in full precision."""
    seen: list[tuple[bool, bool]] = []

    def scored(*_: object) -> dict[str, object]:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32))
        return {}

    monkeypatch.setattr(scoring, "score_methods", scored)
    monkeypatch.setattr(RepeatableStep, "_drawn", lambda _: None)
    prepared = SimpleNamespace(
        device=torch.device("cuda"), methods=[], settings=SimpleNamespace(seed=0), plan=SimpleNamespace(train="train"),
        backbone=lambda: None, title="",
    )  # fmt: skip
    monkeypatch.setattr(scoring, "Stage", lambda *_: SimpleNamespace(product=lambda make, _: make(None), written={}))
    score_stage(prepared, None)
    assert seen == [(True, False)] and not torch.are_deterministic_algorithms_enabled()
