"""One run from configuration to record, on embedded tasks: records, resume, failures, and the other actions."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision.io import write_png

from karst_bench import load_adapter
from karst_bench.adapt.backbone import build_backbone
from karst_bench.adapt.weights_file import find_weights
from karst_bench.cli.hydra_app import main
from karst_bench.config.compose import settings_of
from karst_bench.engine.outcome import Interrupted
from karst_bench.engine.speed import COMPILE_FROM_STEPS
from karst_bench.errors import UserError
from karst_bench.records.lease import Leases
from karst_bench.records.store import Store
from karst_bench.run import pipeline, training
from karst_bench.run.commands import act, save_timm_folder
from karst_bench.run.lookup import ATTEMPTS, memory_path, recall
from karst_bench.run.prepare import PreparedRun, prepare
from karst_bench.run.recording import header_of
from karst_bench.run.watchers import StopSignals

SHORT = ["dataset=mini/digits", "recipe.epochs=1", "recipe.batch=250", "threads=1"]


@pytest.fixture
def words(tmp_path: Path, mini_cache: Path, one_block: list[str]) -> Callable[..., list[str]]:
    """The overrides of a short run whose results go to a folder of the test's own."""
    return lambda *more: [*SHORT, *one_block, f"paths.results={tmp_path}/results", f"paths.cache={mini_cache}", *more]


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.rglob(pattern))


def test_what_tuned_left_open_and_an_only_batch_are_said_at_the_start_and_in_the_record(words, caplog, monkeypatch) -> None:
    settings = settings_of(words("method=linear", "tuned=paper", "recipe.batch=2000", "recipe.drop_last=true"))
    noted = header_of(prepare(settings), 1)["notes"]

    def stop(prepared, *_):
        assert len(prepared.batches(prepared.plan.train, train=True)) == 1
        raise UserError("far enough")

    monkeypatch.setattr(pipeline, "_tracked", stop)
    with pytest.raises(UserError, match="far enough"):
        pipeline.run(settings)
    for said in ("no table for method=linear", "1000 images make no batch of 2000"):
        assert said in caplog.text and any(said in note for note in noted)


def test_a_run_leaves_one_whole_record_and_an_adapter(words, tmp_path: Path) -> None:
    record = pipeline.run(settings_of(words("method=karst")))
    assert [path.stem for path in files(tmp_path / "results", "*.json")] == [record.id]
    assert 0 <= record.metrics.test_top1_last_pct <= 100
    assert record.metrics.train_n == 1000
    assert record.config["method"]["name"] == "karst"
    assert record.data.list_sha256 and record.weights.sha256
    assert not record.config["paths"], "where things lay on one machine is no result"
    tensors = load_file(tmp_path / "results" / record.adapter)
    assert sum(t.numel() for t in tensors.values()) == record.counts.trainable_params + record.counts.head_params


@pytest.mark.parametrize("method", ["karst", "lora", "adaptformer"])
def test_a_record_counts_multiply_adds_as_describe_does(words, method: str) -> None:
    record = pipeline.run(settings_of(words(f"method={method}")))
    result = act(settings_of(words(f"method={method}", "action=describe")))
    assert record.counts.forward_macs == result["forward_macs"]


def test_force_leaves_the_record_of_a_cell_that_another_is_running(words, tmp_path: Path) -> None:
    record = pipeline.run(settings_of(words("method=linear")))
    with Leases(tmp_path / "results").acquire(record.id), pytest.raises(pipeline.BusyError):
        pipeline.run(settings_of(words("method=linear", "force=true")))
    assert [path.stem for path in files(tmp_path / "results" / "runs", "*.json")] == [record.id]


def test_a_finished_run_is_read_not_repeated(words, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pipeline.run(settings_of(words("method=lora")))
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert pipeline.run(settings_of(words("method=lora"))) == first


def test_force_moves_the_old_record_aside_and_gives_the_same_bits(words, tmp_path: Path) -> None:
    first = pipeline.run(settings_of(words("method=karst")))
    tensors = load_file(tmp_path / "results" / first.adapter)
    again = pipeline.run(settings_of(words("method=karst", "force=true")))
    assert (again.metrics, again.curves) == (first.metrics, first.curves)
    for name, tensor in load_file(tmp_path / "results" / again.adapter).items():
        assert torch.equal(tensor, tensors[name]), name
    assert len(files(tmp_path / "results" / "superseded", "*.json")) == 1


@pytest.mark.parametrize("method", ["karst", "linear"])
def test_an_interrupted_run_ends_as_an_unbroken_one(words, tmp_path: Path, monkeypatch, method: str) -> None:
    unbroken = pipeline.run(settings_of(words(f"method={method}", "recipe.epochs=2", "seed=3")))
    (tmp_path / "results").rename(tmp_path / "before")
    asked = iter([False, False, False, False, False, True])

    monkeypatch.setattr(StopSignals, "should_stop", lambda _: next(asked, False))
    with pytest.raises(Interrupted):
        pipeline.run(settings_of(words(f"method={method}", "recipe.epochs=2", "seed=3")))
    assert files(tmp_path / "results" / "checkpoints", "*.safetensors")
    resumed = pipeline.run(settings_of(words(f"method={method}", "recipe.epochs=2", "seed=3")))
    assert (resumed.metrics, resumed.curves) == (unbroken.metrics, unbroken.curves)
    assert not files(tmp_path / "results" / "checkpoints", "*.safetensors")
    old, new = (load_file(tmp_path / folder / unbroken.adapter) for folder in ("before", "results"))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_full_does_not_leak_into_the_next_run_of_the_process(words) -> None:
    before = pipeline.run(settings_of(words("method=linear", "seed=1"))).metrics
    pipeline.run(settings_of(words("method=full", "recipe.lr=0.01")))
    assert pipeline.run(settings_of(words("method=linear", "seed=1", "force=true"))).metrics == before


def test_a_diverging_run_is_a_failed_record_and_is_not_tried_for_ever(words, tmp_path: Path) -> None:
    wild = words("method=full", "recipe.lr=1e20", "recipe.optimiser=sgd", "recipe.warmup=0.0")
    for _ in range(ATTEMPTS):
        with pytest.raises(UserError, match=r"lower recipe\.lr"):
            pipeline.run(settings_of(wild))
    with pytest.raises(UserError, match="force=true"):
        pipeline.run(settings_of(wild))
    (failed,) = files(tmp_path / "results" / "failed", "*.json")
    assert json.loads(failed.read_text())["error"]["type"] == "DivergedError"
    assert not files(tmp_path / "results" / "runs", "*.json")


FULL = ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 5.19 MiB is free. "
        "Process 7 has 60.00 GiB memory in use. See documentation for Memory Management")  # fmt: skip


def test_a_full_gpu_says_what_helps_and_is_no_failure_of_the_cell(words, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(FULL)

    run = words("method=linear", "seed=11")
    with monkeypatch.context() as patched:
        patched.setattr(training, "fit", full)
        for _ in range(ATTEMPTS + 1):
            with pytest.raises(UserError, match=r"5\.19 MiB is free; recompute=true keeps less.* the same run; .*batch="):
                pipeline.run(settings_of(run))
    assert not files(tmp_path / "results" / "failed", "*.json")
    assert pipeline.run(settings_of([*run, "recompute=true"])).metrics.test_top1_last_pct is not None


def test_protocols_say_what_they_looked_at(words, monkeypatch) -> None:
    peek = pipeline.run(settings_of(words("method=linear", "recipe.epochs=3", "protocol=peek10"))).metrics
    assert peek.test_top1_peak_pct >= peek.test_top1_last_pct
    real, asked = PreparedRun.batches, set()

    def watched(prepared, split, *, train=False, **named):
        asked.add((split, train))
        return real(prepared, split, train=train, **named)

    monkeypatch.setattr(PreparedRun, "batches", watched)
    val = pipeline.run(settings_of(words("method=linear", "protocol=val"))).metrics
    assert val.test_top1_last_pct is None and val.train_n == 800 and val.val_n == 200
    assert asked == {("train800", True), ("val200", False)}
    asked.clear()
    last = pipeline.run(settings_of(words("method=linear", "protocol=last"))).metrics
    assert last.test_n != last.train_n == 1000
    assert asked == {("train800val200", True), ("test", False)}


def test_a_record_of_a_moment_ago_is_seen_through_a_file_servers_memory(words, monkeypatch) -> None:
    """A client that saw no record goes on seeing none until it writes into that folder itself."""
    did: list[str] = []
    monkeypatch.setattr(Store, "check_writable", lambda _: did.append("write"))
    monkeypatch.setattr(pipeline, "standing_record", lambda *_: did.append("look") or (did if "look" in did[:-1] else None))
    assert pipeline.run(settings_of(words("method=linear"))) == ["write", "look", "write", "look"]


def test_few_shot_chooses_on_val_and_tests_once(words) -> None:
    record = pipeline.run(settings_of(words("dataset=mini/fs_glyphs", "dataset.shots=2", "recipe.epochs=3", "method=linear")))
    assert record.config["protocol"]["name"] == "best_val"
    assert record.metrics.best_epoch in (1, 2, 3)
    assert {check.split for check in record.curves.checks} == {"val"}


def test_a_sweep_writes_its_records_and_then_nothing(words, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = ["-m", *words("method=lora,linear")]
    assert main(sweep) == 0
    assert len(files(tmp_path / "results", "*.json")) == 2
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert main(sweep) == 0


def test_missing_data_and_weights_are_both_named(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["method=karst", "dataset=vtab/cifar100"]) == 2
    result = capsys.readouterr().err
    for word in (
        "vtab-1k/cifar",
        "karst-bench data prepare",
        "dataset=mini/digits",
        "vit_base_patch16_224.orig_in21k",
        "karst-bench weights fetch",
    ):
        assert word in result, result
    assert "Traceback" not in result


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method.m=7"], ["method.m=7", "96", "try"]),
        (["paths.results=/dev/null/results"], ["/dev/null"]),
        (["method=full", "extra=rst"], ["extra=none"]),
        (["device=cuda"], ["device=cpu"]),
        (["backbone.weights=/nowhere/x.pth"], ["/nowhere/x.pth"]),
        (["backbone.timm_name=resnet18", "backbone.weights=none"], ["ResNet", "another class of timm"]),
        (["backbone.input_size=33", "backbone.weights=none"], ["input_size=33", "img_size=32"]),
        (["recipe.lr=nan"], ["recipe.lr=nan", "number"]),
        (["method.N=0"], ["method.N=0", "at least 1"]),
        (["action=evaluate"], ["adapter="]),
    ],
)
def test_bad_input_ends_in_one_line_with_code_2(mini_cache, overrides, expected, tmp_path, monkeypatch, capsys) -> None:
    if "device=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, f"paths.results={tmp_path}/results", f"paths.cache={mini_cache}", *overrides]) == 2
    result = capsys.readouterr().err
    assert "Traceback" not in result
    assert all(word in result for word in expected), result


def test_runs_that_share_a_compilation_pay_for_it_together(words) -> None:
    prepared = dataclasses.replace(prepare(settings_of(words("method=karst"))), device=torch.device("cuda"))
    needed = -(-COMPILE_FROM_STEPS // 4)  # 1000 images, batch 250, one epoch
    assert [dataclasses.replace(prepared, alike=n).speed for n in (1, needed - 1, needed)] == ["graph", "graph", "compile"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [(["backbone.model_args={nonsense: 1}"], "backbone.model_args"), (["method=karst", "method.m=7"], "method.m=7 does not divide"),
     (["method=noah", "backbone=swin_mini"], "noah cannot be attached"),
     (["method=linear", "speed=graph", "device=cpu"], "speed=graph needs a CUDA device")],
)  # fmt: skip
def test_what_does_not_fit_the_backbone_is_said_before_data_are_read(words, monkeypatch, wrong: list[str], expected: str) -> None:
    monkeypatch.setattr("karst_bench.run.prepare.load_task", lambda *_, **__: pytest.fail("data were read"))
    state = torch.random.get_rng_state()
    with pytest.raises(UserError, match=expected):
        prepare(settings_of([word for word in words() if "model_args" not in word] + wrong))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_damaged_or_foreign_weights_are_refused(words, tmp_path: Path) -> None:
    swin = settings_of(["backbone=swin_mini"]).backbone
    other = timm.create_model(swin["timm_name"], num_classes=1, **swin["model_args"])
    save_file(other.state_dict(), tmp_path / "swin.safetensors")
    whole = (tmp_path / "swin.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:1000])
    torch.save({"model": Any}, tmp_path / "objects.pth")
    for name, said in [
        ("swin.safetensors", "another architecture"),
        ("cut.safetensors", "cannot be read"),
        ("objects.pth", "unpickled"),
    ]:
        with pytest.raises(UserError, match=said):
            pipeline.run(settings_of(words(f"backbone.weights={tmp_path / name}")))


def test_describe_ends_in_one_json_object_and_touches_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["method=karst", "backbone=vit_b16", "action=describe"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["method"], result["backbone"], result["trainable_params"], result["mergeable"]) == (
        "karst",
        "vit_b16",
        337_920,
        True,
    )
    assert result["head_params"] == 769 * 10 and not {"stored_bits", "active_params"} & result.keys()
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_can_be_evaluated_predicted_with_and_merged(words, tmp_path: Path, capsys) -> None:
    record = pipeline.run(settings_of(words("method=karst")))
    adapter = f"adapter={tmp_path}/results/{record.adapter}"
    score = act(settings_of(words("method=karst", adapter, "action=evaluate")))
    assert score["top1_pct"] == pytest.approx(record.metrics.test_top1_last_pct, abs=0.26)  # two of 800 images

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        write_png(
            torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)),
            str(folder / f"{i}.png"),
        )
    rows = act(
        settings_of(words(adapter, f"images={folder}", "action=predict", "topk=2", "format=json", f"out={tmp_path}/p.json"))
    )
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert json.loads((tmp_path / "p.json").read_text()) == rows

    out = act(settings_of(words(adapter, "action=merge", f"out={tmp_path}/merged")))
    merged = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone = settings_of(words()).backbone
    trunk = build_backbone(backbone, classes=10, weights=find_weights(backbone, tmp_path))
    adapted = load_adapter(trunk, f"{tmp_path}/results/{record.adapter}").eval()
    torch.testing.assert_close(merged(pictures), adapted(pictures), atol=1e-4, rtol=0)


def test_a_merged_folder_says_a_side_that_is_not_timms_own(tmp_path: Path) -> None:
    """timm would build the model for its own 224 pixels, and stretch the position embedding to them."""
    half = [0.5] * 3
    backbone = {"timm_name": "vit_tiny_patch16_224", "model_args": {"depth": 1}, "input_size": 64, "mean": half, "std": half}
    net = build_backbone(backbone, classes=3, weights=None).eval()
    save_timm_folder(net, backbone, 3, tmp_path)
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(pictures), net(pictures))


def test_a_run_keeps_a_log_file_of_every_epoch_and_its_end(words, tmp_path: Path, monkeypatch) -> None:
    """Through the command line, whose Hydra must not silence the loggers."""
    monkeypatch.chdir(tmp_path)
    assert main(words("method=linear", "recipe.epochs=2", "recipe.lr=0.01")) == 0
    (file,) = files(tmp_path / "results" / "logs" / "mini", "*.log")
    text = file.read_text()
    assert "epoch 1/2" in text and "epoch 2/2" in text and "test top-1" in text and file.stem in text


def test_a_finished_run_is_told_without_torch(words, tmp_path: Path) -> None:
    first = pipeline.run(settings_of(words("method=linear")))
    code = ("import sys\nfrom karst_bench.cli.hydra_app import main\nimport logging\nlogging.basicConfig(level='INFO')\n"
            f"code = main({words('method=linear')!r})\nassert code == 0 and 'torch' not in sys.modules\n")  # fmt: skip
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"done already, test top-1 {first.metrics.test_top1_last_pct:.1f} %" in told.stderr


def test_a_changed_file_is_read_again(words, tmp_path: Path, monkeypatch) -> None:
    """What was remembered of a configuration holds only while size and time of its files do."""
    settings = settings_of(words("method=linear"))
    first = pipeline.run(settings)
    store = Store(settings.paths.results, settings.suite)
    assert recall(settings, store) == first
    assert recall(settings.replace(seed=1), store) is None
    assert recall(settings.replace(dataset=settings.dataset | {"difficulty": {"noise": 9}}), store) is None
    note = memory_path(settings)
    known = json.loads(note.read_text())
    known["files"] = {name: [size + 1, time] for name, (size, time) in known["files"].items()}
    note.write_text(json.dumps(known))
    assert recall(settings, store) is None and pipeline.run(settings) == first
    for odd in ("{", json.dumps(known | {"files": {}, "images": []}), "[" * 100_000):
        note.write_text(odd)
        assert recall(settings, store) is None


def test_a_backbone_that_leaves_its_statistics_to_timm_is_recalled_too(words) -> None:
    """The note is filed under the configuration as it was asked for, before the backbone's own values are put in."""
    tiny = "{img_size:32,patch_size:8,embed_dim:48,depth:1,num_heads:3}"
    settings = settings_of(words("method=linear", "backbone.timm_name=vit_tiny_patch16_224", "backbone.weights=none",
                                 f"backbone.model_args={tiny}", "backbone.input_size=32"))  # fmt: skip
    assert settings.backbone["mean"] is None
    record = pipeline.run(settings)
    assert recall(settings, Store(settings.paths.results, settings.suite)) == record
