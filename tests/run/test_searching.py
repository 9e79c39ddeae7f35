"""The stages of methods that search: what they read, what they leave, and that being killed changes nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from karst_bench import files
from karst_bench.config.compose import settings_of
from karst_bench.data.loader import SplitBatches
from karst_bench.engine.checkpoint import trained
from karst_bench.engine.outcome import Interrupted
from karst_bench.engine.streams import Streams
from karst_bench.errors import UserError
from karst_bench.records import checkpoint_file, forced
from karst_bench.records.store import Store
from karst_bench.run import pipeline, searching, training
from karst_bench.run.prepare import prepare
from karst_bench.run.watchers import StopSignals

TINY = [
    "dataset=mini/digits", "backbone.weights=none", "recipe.epochs=1", "recipe.batch=250", "threads=1",
    "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:2,num_heads:2}",
    "method.stages.supernet.epochs=1", "method.stages.evolve.population=4", "method.stages.evolve.parents=2",
    "method.stages.evolve.mutants=2", "method.stages.evolve.crossed=1", "method.stages.evolve.generations=1",
]  # fmt: skip
METHODS = ["glora", "noah"]


@pytest.fixture
def words(tmp_path: Path, mini_cache: Path):
    return lambda *more: [*more[:1], *TINY, f"paths.results={tmp_path}/results", f"paths.cache={mini_cache}", *more[1:]]


def stop_after(calls: int):
    """A wish to stop that is there when it is looked for the calls-th time."""
    asked = iter([False] * (calls - 1) + [True])
    return lambda _: next(asked, False)


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", METHODS)
def test_killed_in_each_stage_it_ends_the_same(words, tmp_path, monkeypatch, method) -> None:
    """The supernet after its second of four steps, the search after its third of eight candidates, then what comes last."""
    line, results = words(f"method={method}"), tmp_path / "results"
    record = pipeline.run(settings_of(line))
    assert record.artefact == f"artefacts/mini/{record.id}.evolve.safetensors"
    results.rename(tmp_path / "before")
    for calls, left in ((2, "supernet"), (2 + 3, "evolve")):
        with monkeypatch.context() as patch:
            patch.setattr(StopSignals, "should_stop", stop_after(calls))
            with pytest.raises(Interrupted):
                pipeline.run(settings_of(line))
        assert [path.name for path in (results / "checkpoints").iterdir()] == [f"{record.id}.{left}.safetensors"]
    _, meta = checkpoint_file.from_file(results / "checkpoints" / f"{record.id}.evolve.safetensors")
    assert len(meta["log"]) == 3
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit" if method == "noah" else "copy_in", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(settings_of(line))
    assert not list((results / "checkpoints").iterdir()) and not list(results.rglob("*.json"))
    monkeypatch.setattr(searching, "evolve", lambda *_, **__: pytest.fail("searched again"))
    again = pipeline.run(settings_of(line))
    assert (again.metrics, again.counts, again.artefact_sha256) == (record.metrics, record.counts, record.artefact_sha256)
    assert again.curves == record.curves and again.notes == record.notes
    old, new = (load_file(tmp_path / folder / record.adapter) for folder in ("before", "results"))
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("method", METHODS)
def test_the_test_split_is_never_read_before_the_last_look(words, tmp_path, monkeypatch, method) -> None:
    """All images that are asked for, by the split they come from: 800 to train on, 200 to compare on, no other. What is compared
    is the candidate, with the weights that the supernet learned, whose draws are not those of the training after it."""
    prepared = prepare(settings_of(words(f"method={method}", "protocol=peek10")))
    splits = {id(images): name for name, images in prepared.task.splits.items()}
    assert "test" in splits.values()
    opened, read = [], SplitBatches._read
    monkeypatch.setattr(SplitBatches, "_read", lambda self, *a: opened.append(splits[id(self.split)]) or read(self, *a))
    learned, seeds, same, chosen, compared, log = {}, [], [], [], [], []
    make, fit, look, kind = searching._evolve, searching.fit, searching.top1, type(prepared.methods[0])

    def evolved(search, stage, net, saved):
        opened.append("evolve")
        learned.update(net["tensors"])
        found = make(search, stage, net, saved)
        log.extend(tuple(subnet) for *_, subnet in found["meta"]["log"])
        return found

    def looked(model, *a, **k):
        compared.append(chosen[-1])
        same.append(all(torch.equal(p, learned[name]) for name, p in trained(model).items()))
        return look(model, *a, **k)

    choose = kind.choose
    monkeypatch.setattr(kind, "choose", lambda self, subnet: chosen.append(tuple(subnet)) or choose(self, subnet))
    monkeypatch.setattr(searching, "_evolve", evolved)
    monkeypatch.setattr(searching, "top1", looked)
    monkeypatch.setattr(searching, "fit", lambda *a, **k: seeds.append(k["streams"].seed_of("dropout")) or fit(*a, **k))
    found = searching.search_stages(prepared, Store(tmp_path / "results", "mini"), ())
    at = opened.index("evolve")
    assert set(opened[:at]) == {"train800"} and set(opened[at + 1 :]) == {"val200"}
    assert len(opened[at + 1 :]) == 8, "one look at each candidate"
    assert same == [True] * 8 and compared == log and seeds != [Streams(prepared.settings.seed).seed_of("dropout")]
    assert len(found.artefacts[method].facts["subnet"]) == {"glora": 2 * 4 * 5, "noah": 3 * 2}[method]


def test_a_record_says_what_was_searched_and_counts_it(words, tmp_path) -> None:
    record = pipeline.run(settings_of(words("method=glora", "method.stages.evolve.budget=1500", "method.stages.supernet.epochs=2",
                                      "protocol=peek10")))  # fmt: skip
    assert record.metrics.test_top1_peak_pct is None, "no look at the test split before the last, so no best of them"
    _, meta = checkpoint_file.from_file(tmp_path / "results" / record.artefact)
    assert record.counts.active_params == meta["params"] <= 1500 < record.counts.trainable_params
    assert all(params <= 1500 for _, _, params, _, _ in meta["log"]) and len(meta["log"]) == 8
    best = max(meta["log"], key=lambda entry: entry[3])
    assert meta["val_top1_pct"] == best[3] and f"{best[3]:.2f} %" in record.notes[-1]
    assert record.metrics.train_n == 800 and record.seconds.search_s > 0
    assert record.curves.epoch == (1, 2) and record.config["recipe"]["epochs"] == 1, "the supernet's epochs are what trained"
    assert files.sha256(tmp_path / "results" / record.artefact) == record.artefact_sha256


def test_a_given_subnet_is_trained_without_a_search(words, monkeypatch) -> None:
    monkeypatch.setattr(searching, "evolve", lambda *_, **__: pytest.fail("searched"))
    line = [word for word in words("method=noah") if "stages" not in word]
    record = pipeline.run(settings_of([*line, "method.subnet={vpt:[1,0],lora:2,adapter:[0,3]}"]))
    assert record.counts.trainable_params == 32 * 1 + 2 * 4 * 32 * 2 + 2 * 32 * 3 + 3 + 32
    assert record.artefact is None and record.metrics.train_n == 1000


def test_force_searches_anew(tmp_path) -> None:
    store = Store(tmp_path, "mini")
    files.write(store.artefact_path("0" * 16, "evolve"), b"old")
    files.write(store.checkpoint_path(f"{'0' * 16}.supernet"), b"old")
    again = forced.begin(store, "0" * 16)
    assert again.artefact("0" * 16, "evolve") is None and again.resumable(f"{'0' * 16}.supernet") is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["method=glora", "also=heat"], "run one of them"),
        (["method=lora", "also=noah"], "make it the method"),
        (["method=glora", "method.stages.supernet.split=all"], "nothing else is fair"),
        (["method=noah", "method.subnet=/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_refused_with_a_reason(words, line, said) -> None:
    with pytest.raises(UserError, match=said):
        pipeline.run(settings_of([word for word in words(*line) if "noah" not in line[-1] or "stages" not in word]))
