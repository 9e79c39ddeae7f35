"""The results folder: write-once, failures apart, nothing half written whatever the disk does."""

import errno
import hashlib
import os
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save

from karst_bench.errors import UserError
from karst_bench.records import record as schema
from karst_bench.records.checkpoint_file import CHECKSUM, META
from karst_bench.records.facts import RunFailure
from karst_bench.records.record import FailedRun
from karst_bench.records.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, "mini")


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_record_is_written_once(store, record, tmp_path):
    run_id = record.id
    assert store.find(run_id) is None
    store.write(record)
    assert store.find(run_id) == store.read(run_id) == record
    with pytest.raises(UserError, match="exists already"):
        store.write(replace(record, notes=("second",)))
    assert store.read(run_id).notes == ()
    assert files(tmp_path) == [f"runs/mini/{run_id}.json"]
    assert [found.id for found in store.records()] == [run_id]


def test_failures_are_counted_and_make_way(store, record, failure, tmp_path):
    run_id = record.id
    assert store.failures(run_id) == 0
    store.fail(failure)
    store.fail(failure)
    assert [found.attempts for found in store.failed()] == [2] and list(store.records()) == []
    assert store.failures(run_id) == 2 and store.find(run_id) is None
    store.write(record)
    assert store.failures(run_id) == 0
    assert files(tmp_path) == [f"runs/mini/{run_id}.json", f"superseded/mini/{run_id}.1.json"]


def test_force_moves_record_and_adapter(store, record, tmp_path):
    run_id = record.id
    for _ in range(2):
        relative, sha256 = store.save_adapter(run_id, {"a": torch.ones(2)}, {"id": run_id})
        assert sha256 == hashlib.sha256((tmp_path / relative).read_bytes()).hexdigest()
        store.write(replace(record, adapter=relative, adapter_sha256=sha256))
        assert store.supersede(run_id) is not None
    assert store.supersede(run_id) is None
    names = [f"superseded/mini/{run_id}.{n}.{kind}" for n in (1, 2) for kind in ("json", "safetensors")]
    assert files(tmp_path) == names
    assert schema.load(tmp_path / names[0]).adapter == f"adapters/mini/{run_id}.safetensors"


def a_state():
    """What a checkpoint may hold: every kind of tensor and of JSON."""
    tensors = {
        "model/weight": torch.arange(6.0).reshape(2, 3),
        "optim/weight:step": torch.tensor(7.0),
        "random/order": torch.Generator().manual_seed(3).get_state(),
        "half": torch.tensor([0.1, 3.0], dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "flag": torch.tensor([True, False]),
    }
    meta = {"at": {"step": 7, "best": None, "train_loss": [0.1, float("inf")], "checks": [{"epoch": 1}]}, "done": True}
    return tensors, meta


def test_a_checkpoint_comes_back_bit_for_bit_and_goes_with_the_record(store, record):
    tensors, meta = a_state()
    assert store.load_checkpoint(record.id) is None
    store.save_checkpoint(record.id, {}, {})
    store.save_checkpoint(record.id, tensors, meta)
    back, back_meta = store.load_checkpoint(record.id)
    assert back_meta == meta and back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name
    store.write(record)
    assert store.load_checkpoint(record.id) is None


def test_a_foreign_checkpoint_is_refused(store, record):
    path = store.checkpoint_path(record.id)
    path.parent.mkdir(parents=True)
    for content in (b"", b"\x80\x04pickle", b"{}" * 50, save({"a": torch.ones(2)}), save({}, {META: "{}", CHECKSUM: "0"})):
        path.write_bytes(content)
        with pytest.raises(UserError, match="remove it to start afresh"):
            store.load_checkpoint(record.id)
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.save_checkpoint(record.id, {}, {"f": files})


def test_every_flipped_bit_of_a_checkpoint_is_seen(store, record):
    """Also those that give another valid number: a wrong result under the right id would be the outcome."""
    store.save_checkpoint(record.id, *a_state())
    path = store.checkpoint_path(record.id)
    whole = path.read_bytes()
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(UserError, match="remove it to start afresh"):
            store.load_checkpoint(record.id)


def test_damaged_records_are_not_overwritten(store, record):
    path = store.path(record.id)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(UserError, match="move it away"):
        store.find(record.id)
    with pytest.raises(UserError, match="exists already"):
        store.write(record)
    assert path.read_text() == "{"


@pytest.mark.parametrize("run_id", ["../../../../etc/passwd", "ABCDEF0123456789", "", "0" * 17])
def test_ids_are_no_paths(store, run_id):
    with pytest.raises(ValueError, match="16 hex"):
        store.path(run_id)


def test_suites_are_no_paths(tmp_path):
    with pytest.raises(UserError, match="not a plain name"):
        Store(tmp_path, "../x")


def failed(record):
    header = {key: getattr(record, key) for key in ("id", "config", "data", "weights", "provenance")}
    return FailedRun(**header, error=RunFailure(type="E"))


ACTIONS = {
    "write": lambda store, record: store.write(record),
    "fail": lambda store, record: store.fail(failed(record)),
    "adapter": lambda store, record: store.save_adapter(record.id, {"a": torch.ones(9)}, {}),
    "checkpoint": lambda store, record: store.save_checkpoint(record.id, {"a": torch.ones(9)}, {}),
    "probe": lambda store, record: store.check_writable(),
}
CALLS = ("open", "write", "fsync", "link", "mkdir", "replace")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_failing_disk_leaves_all_or_nothing(store, record, tmp_path, monkeypatch, action, call, code):
    """Each system call of each write is made to fail in turn; a write may stop half-way inside os.write."""
    store.check_writable()
    before = files(tmp_path)
    real = getattr(os, call)
    hits = []

    def broken(*arguments, **named):
        hits.append(call)
        if call == "write":
            real(arguments[0], bytes(arguments[1])[:5])  # the disk fills in the middle of the data
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        try:
            ACTIONS[action](store, record)
        except UserError as error:
            assert "paths.results=" in str(error) and os.strerror(code) in str(error)
            assert files(tmp_path) == before
        else:
            # No link: a copy takes its place. Folder fsync and mkdir of an existing folder may fail harmlessly.
            assert call in ("link", "mkdir", "fsync", "replace") or not hits
    if store.find(record.id) is None:
        ACTIONS[action](store, record)
    assert (store.find(record.id) is not None) == (action == "write")
    assert not [name for name in files(tmp_path) if ".tmp" in name or "probe" in name]


def _write_one(root, record, worker):
    try:
        Store(root, "mini").write(replace(record, notes=(f"worker {worker}",)))
    except UserError:
        return 0
    return 1


def test_of_eight_writers_one_wins(tmp_path, record):
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as pool:
        jobs = [pool.submit(_write_one, tmp_path, record, worker) for worker in range(8)]
        assert sum(job.result() for job in jobs) == 1
    assert files(tmp_path) == [f"runs/mini/{record.id}.json"]
    assert schema.load(tmp_path / files(tmp_path)[0]).notes[0].startswith("worker")


def test_leftovers_of_a_killed_writer_are_cleared(store, record, tmp_path):
    store.write(record)
    (store.path(record.id).parent / f".{record.id}.json.1.ab.tmp").write_text("half")
    store.clear_temporaries(record.id)
    assert files(tmp_path) == [f"runs/mini/{record.id}.json"]


def test_what_is_published_outlasts_a_power_cut(store, record, monkeypatch):
    """The data reach the disk before the name does, and the name before the call returns."""
    events = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "replace")}

    def fsync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real["fsync"](handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, lambda *names, name=name: (events.append(name), real[name](*names)))
    store.write(record)
    store.save_checkpoint(record.id, {}, {})
    assert events == ["file", "link", "folder", "file", "replace", "folder"]
