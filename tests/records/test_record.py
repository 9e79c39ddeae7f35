"""Records: what is taken, what is refused and why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from karst_bench.records import record as schema
from karst_bench.records.facts import Metrics, RunFailure
from karst_bench.records.record import FailedRun, RunRecord
from karst_bench.records.strict_json import MAX_BYTES, RecordError

PACKAGE = Path(schema.__file__).parents[1]


def refused(fields):
    """Why that record is not read."""
    with pytest.raises(RecordError) as error:
        schema.loads(json.dumps(fields))
    return str(error.value)


def test_round_trip_keeps_everything(record, failure):
    for run in (record, failure):
        text = schema.dumps(run)
        assert schema.loads(text) == run
        assert schema.dumps(schema.loads(text)) == text
        assert json.loads(text)["status"] == run.status


def test_what_is_not_known_is_absent(record):
    text = schema.dumps(record)
    for absent in ("null", "stored_bits", "active_params", "pixels_sha256", "adapter", "notes", "best_epoch"):
        assert absent not in text
    assert json.loads(text)["schema"] == json.loads(text)["id_schema"] == 3


@pytest.mark.parametrize(
    ("path", "value", "place", "reason"),
    [
        ("schema", 4, "schema", "version '4'; this reads 1 to 3"),
        ("schema", True, "schema", "version 'True'"),
        ("id", "../../etc/passwd", "id", "16 hex"),
        ("id", "0123456789abcdef\n", "id", "16 hex"),
        ("id_schema", 9, "id_schema", "9"),
        ("status", "running", "status", "running"),
        ("created", "yesterday", "created", "ISO-8601"),
        ("config.seed", "0", "config.seed", "not an integer"),
        ("config.seed", True, "config.seed", "not an integer"),
        ("config.suite", "../x", "config.suite", "../x"),
        ("config.method", {}, "config.method.name", "missing"),
        ("config", [], "config", "got `array`"),
        ("metrics.test_top1_last_pct", 101.0, "metrics.test_top1_last_pct is '101.0'", "<= 100"),
        ("metrics.test_top1_last_pct", -0.5, "metrics.test_top1_last_pct is '-0.5'", ">= 0"),
        ("metrics.test_top1_last_pct", True, "metrics.test_top1_last_pct is 'True'", "`float"),
        ("metrics.test_top1_last_pct", None, "metrics", "no accuracy"),
        ("metrics.test_n", -1, "metrics.test_n is '-1'", ">= 0"),
        ("metrics.test_top1_lst_pct", 1.0, "metrics", "test_top1_lst_pct"),
        ("curves.lr", [1.0], "curves.lr", "1 values for 2 epochs"),
        ("curves.train_loss", ["<script>", 1], "curves.train_loss[0] is '<script>'", "`float`"),
        ("curves.checks", [{"epoch": 1, "split": "test", "top1_pct": 200}], "curves.checks[0].top1_pct", "<= 100"),
        ("counts.trainable_params", 1.5, "counts.trainable_params is '1.5'", "`int`"),
        ("counts.trainable_params", 10**30, "counts.trainable_params", "9223372036854775807"),
        ("counts.trainable_params", 10**400, "holds a number", "401 characters"),
        ("config.method.r", 10**30, "config.method.r", "64 bits"),
        ("seconds.train_s", "soon", "seconds.train_s is 'soon'", "`float"),
        ("speed", None, "speed", "`null`"),
        ("notes", [1], "notes[0] is '1'", "`str`"),
        ("peak_bytes", -5, "peak_bytes is '-5'", ">= 0"),
        ("error", {"type": "E"}, "record", "error"),
        ("adapter", "../../etc/passwd", "adapter '../../etc/passwd'", "leaves the results folder"),
        ("adapter", "/etc/passwd", "adapter '/etc/passwd'", "leaves the results folder"),
    ],
)
def test_refusals_name_the_place_and_the_value(fields, path, value, place, reason):
    *parents, last = path.split(".")
    node = fields
    for parent in parents:
        node = node[parent]
    node[last] = value
    said = refused(fields)
    assert place in said and reason in said


def test_a_record_that_was_changed_says_so(record):
    fields = json.loads(schema.dumps(record))
    assert schema.loads(json.dumps(dict(reversed(fields.items())))) == record, "neither order nor spaces are content"
    fields["metrics"]["test_top1_last_pct"] = 99.0
    assert "changed after it was written" in refused(fields)
    fields["metrics"]["test_top1_last_pct"] = 71.25
    assert schema.loads(json.dumps(fields)) == record


@pytest.mark.parametrize("section", ["metrics", "curves", "counts", "seconds", "speed", "data", "weights", "provenance"])
def test_a_finished_record_has_every_section(fields, section):
    del fields[section]
    assert refused(fields) == f"record: object missing required field `{section}`"


def test_a_failed_record_needs_its_error(failure):
    fields = to_builtins(failure)
    del fields["error"]
    assert "missing required field `error`" in refused(fields)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not whole JSON"),
        ("[1]", "JSON object"),
        ('{"schema": NaN}', "NaN"),
        ('{"schema": ' + "1" + "0" * 400 + "}", "401 characters"),
        ('{"schema": 1e400}', "not a finite number"),
        ('{"schema": 1, "schema": 1}', "one key twice"),
        ("[" * 100_000, "nested"),
        (" " * (MAX_BYTES + 1), "at most"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_hostile_text_is_refused(text, reason):
    with pytest.raises(RecordError, match=reason):
        schema.loads(text)


def test_depth_is_bounded(fields):
    nested: dict = {}
    for _ in range(40):
        nested = {"a": nested}
    fields["config"]["deep"] = nested
    assert "more than 32 levels" in refused(fields)


def test_half_a_record_is_refused(record):
    text = schema.dumps(record)
    with pytest.raises(RecordError, match="not whole JSON"):
        schema.loads(text[: len(text) // 2])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": Metrics(test_top1_last_pct=float("nan"))}, "metrics.test_top1_last_pct is nan"),
        ({"metrics": Metrics(test_top1_last_pct=101.0)}, "metrics.test_top1_last_pct is '101.0'"),
        ({"metrics": Metrics()}, "no accuracy"),
        ({"notes": (Path("a"),)}, "JSON does not hold"),
        ({"id": "x"}, "16 hex"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(record, changes, reason):
    with pytest.raises(RecordError, match=reason):
        schema.dumps(replace(record, **changes))


def test_a_record_under_another_name_is_refused(tmp_path, record):
    path = tmp_path / "0123456789abcdef.json"
    path.write_text(schema.dumps(record))
    with pytest.raises(RecordError, match=r"0123456789abcdef\.json: holds record"):
        schema.load(path)
    with pytest.raises(RecordError, match="not a regular file"):
        schema.load(tmp_path)
    with pytest.raises(RecordError, match="cannot be read"):
        schema.load(tmp_path / "absent.json")


def test_a_failure_is_no_result_and_the_other_way_round(tmp_path, record, failure):
    path = tmp_path / f"{record.id}.json"
    path.write_text(schema.dumps(failure))
    assert isinstance(schema.load_failed(path), FailedRun)
    with pytest.raises(RecordError, match="status 'failed'"):
        schema.load(path)
    path.write_text(schema.dumps(record))
    assert isinstance(schema.load(path), RunRecord)
    with pytest.raises(RecordError, match="status 'done'"):
        schema.load_failed(path)


def test_a_failure_keeps_its_traceback():
    try:
        raise ValueError("m")
    except ValueError as error:
        failure = RunFailure.of(error)
    assert (failure.type, failure.message) == ("ValueError", "m") and 'raise ValueError("m")' in failure.traceback


def test_the_schema_needs_no_torch():
    code = (
        "import sys, types\n"
        f"package = types.ModuleType('karst_bench'); package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['karst_bench'] = package  # its public API imports torch; the records must not\n"
        "import karst_bench.records.record, karst_bench.records.identity, karst_bench.records.store\n"
        "import karst_bench.records.lease, karst_bench.records.provenance, karst_bench.report.load\n"
        "heavy = {'torch', 'timm', 'wandb', 'hydra'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
