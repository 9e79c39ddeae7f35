"""Trackers: what they keep when all is well, and that nothing they meet reaches the training."""

import contextlib
import io
import json
import socket
import threading
import time
from importlib.util import find_spec

import msgspec
import pytest

from karst_bench.trackers import client, worker

PATIENT_S = 90.0  # tests wait for the tracker's last word; runs do not


@pytest.fixture
def follow(config, record, tmp_path, caplog):
    """Tracks a run of a few epochs; gives the lines logged and the longest that an epoch's call took, in seconds."""

    def follow_run(kind, settings, wait_s=PATIENT_S, epochs=3):
        caplog.clear()
        client.TrackerClient.told.clear()
        patience = client.Patience(wait_s)
        tracker = client.TrackerClient(kind, {"folder": str(tmp_path / "tracking")} | settings, patience)
        slowest_s = track(tracker, config, record, epochs, tmp_path / "adapter.safetensors")
        assert all(line.levelname == "WARNING" for line in caplog.records)
        return caplog.messages, slowest_s

    return follow_run


def track(tracker, config, record, epochs, adapter):
    began = time.perf_counter()
    tracker.start(config, record.id)
    slowest_s = time.perf_counter() - began
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        tracker.log({"epoch": epoch, "train_loss": 1.0 / epoch, "lr": 1e-3})
        slowest_s = max(slowest_s, time.perf_counter() - began)
    adapter.write_bytes(b"tensors")
    tracker.finish(msgspec.to_builtins(record), adapter)
    return slowest_s


@pytest.fixture
def server(request, monkeypatch):
    """A W&B server on this machine that refuses every connection, takes it and never answers, answers 500, or hangs up."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(50)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    if request.param == "refuses":
        listener.close()
    answer = {"fails": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "closes": b""}
    if request.param in answer:
        threading.Thread(target=answer_all, args=(listener, answer[request.param]), daemon=True).start()
    yield request.param
    listener.close()


def answer_all(listener, answer):
    with contextlib.suppress(OSError):  # closed: the test is over
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if answer:
                    connection.recv(65536)
                    connection.sendall(answer)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["refuses", "hangs", "fails", "closes"], indirect=True)
def test_a_broken_server_costs_nothing_and_the_run_is_kept(server, follow, record, tmp_path):
    said, slowest = follow("wandb", {"mode": "online"})
    assert slowest < 0.1
    (line,) = said
    assert "not online" in line and "wandb sync" in line
    (folder,) = (tmp_path / "tracking" / "wandb").glob(f"offline-run-*-{record.id}")
    assert str(folder) in line


def test_all_runs_of_a_process_share_one_patience_and_gather_no_processes(record, tmp_path, monkeypatch, caplog):
    """Trackers that hang until they are let go, in a sweep of seven runs: one line, one wait, four processes online."""
    program, gate = tmp_path / "worker.py", tmp_path / "gate"
    program.write_text(
        "import os, sys, time\nparent = os.getppid()\n"
        f"while not os.path.exists({str(gate)!r}) and os.getppid() == parent: time.sleep(0.01)\nprint(sys.argv[2])\n"
    )
    waits, real = [], client.threading.Thread.join
    monkeypatch.setattr(client, "PROGRAM", program)
    monkeypatch.setattr(client, "PATIENCE", client.Patience(0.05))
    monkeypatch.setattr(client.TrackerClient, "told", set())
    monkeypatch.setattr(client.TrackerClient, "finishing", threads := [])
    monkeypatch.setattr(client.threading.Thread, "join", lambda self, s=None: (waits.append(s), real(self, s))[1])
    for _ in range(7):
        tracker = client.TrackerClient("wandb", {"folder": str(tmp_path)})
        track(tracker, {}, record, 1, tmp_path / "adapter")
    (said,) = caplog.messages
    assert "left to finish alone" in said and f"wandb sync {tmp_path}" in said
    assert waits[0] == 0.05 and len(waits) == 7 and sum(waits[1:]) < 0.05, "the process waits once"
    gate.touch()
    monkeypatch.undo()
    for thread in threads:
        thread.join(PATIENT_S)
    late = [json.loads(line.removeprefix("wandb: ")) for line in caplog.messages if line.startswith("wandb: {")]
    assert [said.get("mode") for said in late].count("offline") == 3 and len(late) == 7, "what they say at last is told"


def test_a_tracker_that_is_not_installed_is_one_line_a_process(monkeypatch, caplog):
    monkeypatch.setattr(client, "find_spec", lambda name: None)
    client._installed.cache_clear()
    for _ in range(3):
        assert client.build_trackers({"wandb": {}}).trackers == ()
    assert caplog.text.count("pip install wandb") == len(caplog.records) == 1
    client._installed.cache_clear()


def test_an_offline_run_holds_curves_summary_table_and_adapter(follow, record, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    said, _ = follow("wandb", {"mode": "offline"})
    assert said[0].startswith("wandb: sync it later with: wandb sync ")
    (log,) = (tmp_path / "tracking" / "wandb").glob(f"offline-run-*-{record.id}/*.wandb")
    text = log.read_bytes()
    for part in (b"train_loss", b"metrics/test_top1_last_pct", b"result", b"mini/digits", b"adapter-"):
        assert part in text, part
    assert b"/somewhere" not in text, "paths stay at home"


@pytest.mark.slow
def test_no_key_is_one_line(follow, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    said, _ = follow("wandb", {"mode": "online"})
    assert len(said) == 1 and "wandb sync" in said[0]


@pytest.mark.parametrize("kind", client.KINDS)
def test_an_unwritable_folder_is_one_line(kind, follow, tmp_path):
    if find_spec(kind) is None:  # found, not imported: that takes seconds
        pytest.skip(f"{kind} is not installed")
    (tmp_path / "file").write_text("")
    settings = {"mode": "offline", "folder": str(tmp_path / "file" / "below")}
    said, _ = follow(kind, settings)
    assert len(said) == 1 and "the record is" in said[0]


def test_tensorboard_keeps_scalars(follow, record, tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    said, _ = follow("tensorboard", {})
    assert said == []
    events = loader.EventAccumulator(str(tmp_path / "tracking" / record.id))
    events.Reload()
    tags = events.Tags()
    assert "train_loss" in str(tags) and "metrics/test_top1_last_pct" in str(tags)


def test_a_process_that_dies_is_one_line(follow, tmp_path, monkeypatch):
    monkeypatch.setattr(client.sys, "executable", "/bin/false")
    said, _ = follow("wandb", {})
    assert said == ["wandb: ended without a word; what it tracked is not whole, the record is"]
    monkeypatch.setattr(client.sys, "executable", str(tmp_path / "no-python"))
    said, _ = follow("wandb", {})
    assert "could not be started" in said[0]


def test_several_at_once_and_none(monkeypatch):
    assert client.build_trackers(None).trackers == () and client.build_trackers({"none": {}}).trackers == ()
    client._installed.cache_clear()
    monkeypatch.setattr(client, "find_spec", lambda name: name)
    several = client.build_trackers({"wandb": {"folder": "a"}, "tensorboard": {"folder": "b"}})
    assert [tracker.kind for tracker in several.trackers] == ["wandb", "tensorboard"]
    with pytest.raises(ValueError, match="unknown; use wandb, tensorboard"):
        client.build_trackers({"mlflow": {}})


def test_finish_without_start_is_harmless(caplog):
    client.TrackerClient("wandb", {}).finish(None)
    assert caplog.messages == []


class Heard:
    """A tracker that only listens."""

    outcome = ""

    def __init__(self, settings):
        self.rows = settings

    def start(self, config, run_id, resumed):
        """Nothing to open."""

    def log(self, row):
        """Keeps the row."""
        self.rows.append(row)

    def finish(self, record, adapter):
        """Marks the end."""
        self.rows.append("end" if record else "lost")


def events(*those):
    return io.StringIO("".join(json.dumps(event) + "\n" for event in those))


START = {"event": "start", "config": {}, "id": "0" * 16, "resumed": True}


def test_epochs_of_before_a_resume_are_logged_at_the_end(record, monkeypatch):
    monkeypatch.setattr(worker, "Tensorboard", Heard)
    live = {"event": "log", "row": {"epoch": 2}}
    finish = {"event": "finish", "record": msgspec.to_builtins(record), "adapter": None}
    worker.serve("tensorboard", rows := [], events(START, live, finish))
    assert rows == [{"epoch": 2}, {"epoch": 1, "train_loss": 2.0, "train_top1_pct": 10.0, "lr": 1e-3}, "end"]
    worker.serve("tensorboard", rows := [], events(START, finish))
    assert [row["epoch"] for row in rows[:-1]] == [1, 2] and rows[1]["test_top1_pct"] == 71.25


def test_a_training_that_is_gone_closes_its_tracker(monkeypatch):
    monkeypatch.setattr(worker, "Tensorboard", Heard)
    worker.serve("tensorboard", rows := [], events(START))
    assert rows == ["lost"]
