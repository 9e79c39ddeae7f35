"""Protocols, streams and displays."""

from io import StringIO

import pytest
import torch
import yaml
from rich.console import Console

from karst_bench.config.compose import settings_of
from karst_bench.engine.meter import Meter
from karst_bench.engine.progress import Bar, Lines, progress
from karst_bench.engine.protocols import plan, tenths
from karst_bench.engine.streams import NAMES, Streams, seeded
from karst_bench.errors import UserError

VTAB = {"train800", "val200", "train800val200", "test"}
FEW = {"train", "val", "test"}


def test_tenths_end_at_the_last_epoch_without_doubles():
    assert tenths(100) == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert tenths(5) == [1, 2, 3, 4, 5]
    assert tenths(25) == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]
    assert all(tenths(n)[-1] == n and len(tenths(n)) <= 10 for n in range(1, 120))


@pytest.mark.parametrize(
    ("name", "splits", "train", "check", "choose", "final"),
    [
        ("last", VTAB, "train800val200", None, False, "test"),
        ("peek10", VTAB, "train800val200", "test", False, "test"),
        ("val", VTAB, "train800", "val200", False, "val200"),
        ("best_val", VTAB, "train800", "val200", True, "test"),
        ("best_val", FEW, "train", "val", True, "test"),
        ("last", FEW, "train", None, False, "test"),
    ],
)
def test_protocol_files_mean_what_they_should(conf, name, splits, train, check, choose, final):
    node = yaml.safe_load((conf / f"protocol/{name}.yaml").read_text())
    got = plan(node, 20, splits)
    assert (got.train, got.check, got.choose, got.final) == (train, check, choose, final)
    assert got.check_epochs == (frozenset(range(2, 21, 2)) if check else frozenset())


def test_a_protocol_without_its_split_names_it(conf):
    node = yaml.safe_load((conf / "protocol/val.yaml").read_text())
    with pytest.raises(UserError, match=r"val200 or val.*has test, train"):
        plan(node, 20, {"train", "test"})


def test_what_reports_the_test_split_never_takes_another_for_it(conf):
    node = yaml.safe_load((conf / "protocol/last.yaml").read_text())
    with pytest.raises(UserError, match=r"needs the split test"):
        plan(node, 20, {"train", "val"})


def test_every_recipe_file_is_a_recipe_and_opens_with_its_command(conf):
    files = sorted((conf / "recipe").glob("*.yaml"))
    assert {f.stem for f in files} >= {"petl100", "karst110", "ssf", "vpt_sgd", "fs_dtl", "fs_noah", "mini", "mini_fs"}
    for file in [*files, *(conf / "protocol").glob("*.yaml")]:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
        assert lines[0].startswith("# python run.py ") and f"={file.stem}" in lines[0], file.name
    for file in files:
        assert settings_of([f"recipe={file.stem}"]).recipe.name == file.stem


def test_streams_are_independent_and_seeded_blocks_leave_no_trace():
    a, b = Streams(3), Streams(3)
    torch.rand(5, generator=a.init)
    assert torch.equal(torch.rand(4, generator=a.order), torch.rand(4, generator=b.order))
    assert a.seed_of("dropout") != Streams(4).seed_of("dropout")
    assert len({a.seed_of(name) for name in (*NAMES, "dropout")}) == len(NAMES) + 1, "two parts would draw the same numbers"
    assert b.seed_of("order") == 0x85f07d3d548ba091 >> 1  # printf 3:order | sha256sum, its first 16 digits
    before = torch.get_rng_state()
    with seeded(Streams(3).init):
        first = torch.rand(2)
    with seeded(b.init):
        assert torch.equal(first, torch.rand(2))
    with seeded(b.init):
        assert not torch.equal(first, torch.rand(2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_seeded_block_puts_back_a_gpus_generators_where_there_are_any(monkeypatch):
    forked, fork = [], torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forked.append(list(devices)) or fork(devices=[]))
    for name, value in (("is_available", True), ("is_initialized", True), ("device_count", 2)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)  # no device is asked
    with seeded(Streams(0).init):
        pass
    assert forked == [[0, 1]]


def test_the_meter_adds_up_phases():
    meter = Meter(torch.device("cpu"))
    with meter.phase("train"):
        pass
    seconds = meter.seconds("setup", "train")
    assert seconds["setup_s"] == 0.0 <= seconds["train_s"] <= seconds["total_s"] and meter.peak_bytes() > 1e6


def test_a_terminal_gets_a_bar():
    assert isinstance(progress("x", terminal=True), Bar)
    screen = StringIO()
    bar = Bar("run", Console(file=screen, force_terminal=True, width=120))
    bar.on_start(2, 3, 0)
    bar.on_step(1, 1, lambda: (0.5, 40.0))
    bar.on_end()
    assert "40.0" in screen.getvalue()


def test_without_a_terminal_every_epoch_is_logged_and_a_line_is_told_now_and_then(caplog, monkeypatch):
    clock = iter([0.0, 1.0, 11.0, 12.0])
    monkeypatch.setattr("karst_bench.engine.progress.time.monotonic", lambda: next(clock))
    lines = progress("run", terminal=False)
    assert isinstance(lines, Lines)
    with caplog.at_level("DEBUG", "karst_bench"):
        lines.on_start(3, 5, 0)
        for epoch in (1, 2, 3):
            lines.on_epoch({"epoch": epoch, "train_loss": 0.5, "train_top1_pct": 70.0, "lr": 1e-3, "val_top1_pct": 60.0})
    assert [r.levelname for r in caplog.records] == ["DEBUG", "INFO", "DEBUG"]
    assert caplog.records[1].message == "run: epoch 2/3  loss 0.5000  train top-1 70.0 %  val top-1 60.0 %"
