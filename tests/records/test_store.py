"""The results folder: write-once, failures apart, nothing half written whatever the disk does."""

import contextlib
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

from karst_bench.errors import DiskError, LostLeaseError, UserError
from karst_bench.records import forced
from karst_bench.records import record as schema
from karst_bench.records import store as store_module
from karst_bench.records.adapter_check import check_adapter
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


def test_a_record_under_an_id_that_is_not_its_own_is_not_read(store, record):
    """A renamed copy with another seed, its digest made anew."""
    forged = replace(record, config=record.config | {"seed": 9})
    store.write(forged)
    with pytest.raises(UserError, match=r"make the id \w+, not"):
        store.find(record.id)
    assert list(store.records()) == []


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


def finish(store, record, note):
    """A finished run of this store, with an adapter."""
    relative, sha256 = store.save_adapter(record.id, {"a": torch.ones(2)}, {"id": note})
    assert sha256 == hashlib.sha256((store.root / relative).read_bytes()).hexdigest()
    store.write(replace(record, adapter=relative, adapter_sha256=sha256, notes=(note,)))


def test_a_forced_run_replaces_record_and_files_in_one_step(store, record, tmp_path):
    run_id, path = record.id, store.path(record.id)
    store.save_artefact(run_id, "score", {}, {"of": "the first"})
    finish(store, record, "first")
    first, before = path.read_bytes(), files(tmp_path)
    for number in (1, 2):
        again = forced.begin(store, run_id)
        again.save_checkpoint(run_id, {}, {})
        again.save_artefact(run_id, "score", {}, {"of": number})
        assert path.read_bytes() == first or number == 2, "the old record stays while the new run goes on"
        finish(again, record, f"again {number}")
        assert store.read(run_id).notes == (f"again {number}",)
        assert (tmp_path / store.read(run_id).adapter).exists()
    kept = [f"superseded/mini/{run_id}.{n}.{kind}" for n in (1, 2) for kind in ("json", "safetensors", "score.safetensors")]
    now = [f"adapters/mini/{run_id}.forced2.safetensors", f"artefacts/mini/{run_id}.forced2.score.safetensors",
           f"runs/mini/{run_id}.json"]  # fmt: skip
    assert files(tmp_path) == sorted([*now, *kept]) and len(before) == 3
    assert schema.load(tmp_path / kept[0]).adapter == f"adapters/mini/{run_id}.safetensors"


def test_a_forced_run_under_way_is_left_alone_by_who_finds_the_cell_done(store, record, tmp_path):
    finish(store, record, "first")
    again = forced.begin(store, record.id)
    again.save_adapter(record.id, {"a": torch.zeros(2)}, {})
    before = files(tmp_path)
    forced.settle(store, record.id)
    assert files(tmp_path) == before and store.find(record.id).notes == ("first",)


def test_a_stopped_forced_run_goes_on_and_an_ordinary_checkpoint_is_not_its(store, record):
    store.save_checkpoint(record.id, {}, {"of": "an ordinary run"})
    forced.begin(store, record.id).save_checkpoint(record.id, {}, {"of": "the forced one"})
    assert store.resumable(record.id)[1] == {"of": "an ordinary run"}
    again = forced.begin(store, record.id)
    assert again.resumable(record.id)[1] == {"of": "the forced one"}
    again.write(record)
    assert forced.begin(store, record.id).resumable(record.id) is None


@pytest.mark.parametrize("step", ["will_write", "write", "move", "drop", "end"])
def test_a_forced_run_killed_while_it_publishes_leaves_one_whole_record(store, record, tmp_path, monkeypatch, step):
    """Killed at each step in turn, then run again under the same command: the old record or the new one, never none."""
    finish(store, record, "first")
    places = {"will_write": (forced, "will_write"), "write": (store_module.files, "write"),
              "move": (Store, "_move_products"), "drop": (Store, "drop_checkpoints"), "end": (forced, "end")}  # fmt: skip
    with pytest.raises(KeyboardInterrupt), forced.forced_command(tmp_path, ["force=true"]):
        again = forced.begin(store, record.id)
        relative, sha256 = again.save_adapter(record.id, {"a": torch.ones(2)}, {"id": "again"})
        again.save_checkpoint(record.id, {}, {})
        again.save_checkpoint(f"{record.id}.supernet", {}, {})

        def killed(*arguments, **_):
            if step != "write" or arguments[0] == store.path(record.id):
                raise KeyboardInterrupt
            return real(*arguments)

        real = getattr(*places[step])
        with monkeypatch.context() as patch:
            patch.setattr(*places[step], killed)
            again.write(replace(record, adapter=relative, adapter_sha256=sha256, notes=("again",)))
    standing = store.read(record.id)
    assert hashlib.sha256((tmp_path / standing.adapter).read_bytes()).hexdigest() == standing.adapter_sha256
    with forced.forced_command(tmp_path, ["force=true"]):
        assert forced.finished(store, record.id) == (step in ("move", "drop", "end"))
        if not forced.finished(store, record.id):
            finish(forced.begin(store, record.id), record, "again")
        assert forced.finished(store, record.id)
        forced.settle(store, record.id)  # as whoever finds it done
    assert store.read(record.id).notes == ("again",)
    assert files(tmp_path / "adapters") == [store.read(record.id).adapter.removeprefix("adapters/")]
    assert (tmp_path / "superseded" / "mini" / f"{record.id}.1.safetensors").exists()
    assert [path.stem for path in (tmp_path / "superseded" / "mini").glob("*.json")] == [f"{record.id}.1"]
    assert not list((tmp_path / "forced" / "commands").iterdir()) and not files(tmp_path / "checkpoints")
    assert not files(tmp_path / "forced" / "runs")


def test_a_finished_command_forces_anew_and_a_worker_behind_is_told(store, record, tmp_path):
    store.write(record)
    with forced.forced_command(tmp_path, ["force=true"]):
        assert not forced.finished(store, record.id)
        with forced.forced_command(tmp_path, ["force=true"]):  # another worker, which ends the sweep
            forced.begin(store, record.id).write(replace(record, notes=("again",)))
        assert forced.finished(store, record.id), "the other saw that all is done"
    assert not forced.finished(store, record.id)


def test_a_command_killed_while_its_notes_went_begins_anew(store, record, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    store.write(record)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), forced.forced_command(tmp_path, ["force=true"]):
        forced.begin(store, record.id).write(replace(record, notes=("again",)))
        patch.setattr(store_module.files.shutil, "rmtree", stopped)
    with forced.forced_command(tmp_path, ["force=true"]):
        assert not forced.finished(store, record.id)
    assert not list((tmp_path / "forced" / "commands").iterdir())


def test_notes_of_a_command_that_nobody_began_are_none(store, record, tmp_path):
    store.write(record)
    with contextlib.suppress(UserError), forced.forced_command(tmp_path, ["force=true"]):
        forced.begin(store, record.id).write(replace(record, notes=("again",)))
        raise UserError("stopped")
    (words,) = (tmp_path / "forced" / "commands").rglob(forced.WORDS)
    words.unlink()
    with forced.forced_command(tmp_path, ["force=true"]):
        assert not forced.finished(store, record.id)


def test_a_record_stands_where_the_failure_before_it_cannot_be_moved(store, record, failure, monkeypatch):
    store.fail(failure)
    assert failure.id == record.id

    def link(source, target):
        if "superseded" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.link(source, target)
        return True

    monkeypatch.setattr(store_module.files, "link_once", link)
    store.write(record)
    assert store.read(record.id) == record


class Lost:
    """A lease that another worker took over."""

    def held(self):
        return False


class Unheard:
    """A lease on a file server that does not answer."""

    def held(self):
        raise OSError(errno.EIO, "Input/output error")


def test_a_file_server_that_does_not_answer_is_a_disk_error(store, record):
    with pytest.raises(DiskError, match="Input/output error"):
        store.under(Unheard()).save_checkpoint(record.id, {}, {})


def test_who_lost_the_lease_writes_nothing(store, record, failure, tmp_path):
    late = store.under(Lost())
    for act in (lambda: late.write(record), lambda: late.fail(failure), lambda: late.save_checkpoint(record.id, {}, {}),
                lambda: late.save_adapter(record.id, {"a": torch.ones(1)}, {}),
                lambda: late.save_artefact(record.id, "score", {}, {})):  # fmt: skip
        with pytest.raises(LostLeaseError, match="another worker has it"):
            act()
    assert files(tmp_path) == []


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
    assert store.resumable(record.id) is None
    store.save_checkpoint(record.id, {}, {})
    store.save_checkpoint(record.id, tensors, meta)
    back, back_meta = store.resumable(record.id)
    assert back_meta == meta and back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name
    store.write(record)
    assert store.resumable(record.id) is None


def test_a_foreign_checkpoint_is_told_and_not_used(store, record, caplog):
    path = store.checkpoint_path(record.id)
    path.parent.mkdir(parents=True)
    for content in (b"", b"\x80\x04pickle", b"{}" * 50, save({"a": torch.ones(2)}), save({}, {META: "{}", CHECKSUM: "0"})):
        path.write_bytes(content)
        caplog.clear()
        assert store.resumable(record.id) is None and not path.exists()
        assert [line.count(str(path)) for line in caplog.messages] == [1]
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.save_checkpoint(record.id, {}, {"f": files})


def test_every_flipped_bit_of_a_checkpoint_is_seen(store, record):
    """Also those that give another valid number: a wrong result under the right id would be the outcome."""
    store.save_checkpoint(record.id, *a_state())
    path = store.checkpoint_path(record.id)
    whole = path.read_bytes()
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert store.resumable(record.id) is None, position


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


def test_an_adapter_that_is_not_its_records_is_refused(store, record, tmp_path):
    finish(store, record, "as it was")
    path = store.adapter_path(record.id)
    check_adapter(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="its record"):
        check_adapter(path)
    elsewhere = tmp_path / "copy.safetensors"
    elsewhere.write_bytes(path.read_bytes())
    check_adapter(elsewhere)
    store.path(record.id).unlink()
    check_adapter(path)


def test_a_finished_runs_checkpoints_go_and_those_of_a_forced_run_may_stay(tmp_path):
    """Whoever finds the run finished may not take away what another process trains again from."""
    store, run_id = Store(tmp_path, "mini"), "0" * 16
    left = store.checkpoint_path(run_id).parent
    left.mkdir(parents=True)
    for name in (run_id, f"{run_id}.supernet", f"{run_id}.forced-7"):
        store.checkpoint_path(name).write_bytes(b"held")
    store.drop_checkpoints(run_id, of_forced=False)
    assert [path.name for path in left.iterdir()] == [f"{run_id}.forced-7.safetensors"]
    store.drop_checkpoints(run_id)
    assert not [*left.iterdir()]
