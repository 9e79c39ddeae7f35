"""Records: what is taken, what is refused and why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from karst_bench.records import record as schema
from karst_bench.records.record import RecordError

PACKAGE = Path(schema.__file__).parents[1]


def test_round_trip_keeps_everything(record):
    assert schema.loads(schema.dumps(record)) == record
    assert schema.dumps(schema.loads(schema.dumps(record))) == schema.dumps(record)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("schema", 2, "schema version '2'"),
        ("id", "../../etc/passwd", "16 hex"),
        ("status", "running", "status 'running'"),
        ("created", "yesterday", "ISO-8601"),
        ("config.seed", "0", "config.seed"),
        ("config.suite", "../x", "config.suite"),
        ("config.method", {}, "config.method.name"),
        ("metrics.test_top1_last_pct", 101.0, "0 to 100"),
        ("metrics.test_top1_last_pct", True, "0 to 100"),
        ("metrics.test_top1_last_pct", float("nan"), "not a finite number"),
        ("metrics.test_top1_last_pct", None, "no accuracy"),
        ("metrics.test_n", -1, "not a count"),
        ("curves.lr", [1.0], "1 values for 2 epochs"),
        ("curves.train_loss", ["<script>", 1], "list of numbers"),
        ("counts.trainable_params", 1.5, "a count"),
        ("counts.trainable_params", 10**400, "64 bits"),
        ("seconds.train_s", "soon", "a number"),
        ("speed", None, "speed is missing"),
        ("notes", [1], "list of strings"),
        ("peak_bytes", -5, "a count"),
    ],
)
def test_refusals_name_the_place(record, path, value, reason):
    *parents, last = path.split(".")
    node = record
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(RecordError, match=reason):
        schema.validate(record)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not whole JSON"),
        ("[1]", "JSON object"),
        ('{"schema": NaN}', "NaN"),
        ('{"schema": ' + "1" + "0" * 400 + "}", "401 characters"),
        ('{"schema": 1e400}', "schema version 'inf'"),
        ('{"schema": 1, "schema": 1}', "one key twice"),
        ("[" * 100_000, "nested"),
        (" " * (schema.MAX_BYTES + 1), "at most"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_hostile_text_is_refused(text, reason):
    with pytest.raises(RecordError, match=reason):
        schema.loads(text)


def test_half_a_record_is_refused(record):
    text = schema.dumps(record)
    with pytest.raises(RecordError, match="not whole JSON"):
        schema.loads(text[: len(text) // 2])


def test_a_record_under_another_name_is_refused(tmp_path, record):
    path = tmp_path / "0123456789abcdef.json"
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"0123456789abcdef\.json: holds record"):
        schema.load(path)
    with pytest.raises(RecordError, match="not a regular file"):
        schema.load(tmp_path)
    with pytest.raises(RecordError, match="cannot be read"):
        schema.load(tmp_path / "absent.json")


def test_failed_records_need_an_error(record):
    failed = {key: record[key] for key in ("schema", "id", "created", "config")} | {"status": "failed"}
    with pytest.raises(RecordError, match="without its error"):
        schema.validate(failed)
    schema.validate(failed | {"error": {"type": "ValueError", "message": "m", "traceback": "t"}})


def test_the_schema_needs_no_torch():
    code = (
        "import sys, types\n"
        f"package = types.ModuleType('karst_bench'); package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['karst_bench'] = package  # its public API imports torch; the records must not\n"
        "import karst_bench.records.record, karst_bench.records.identity, karst_bench.records.store\n"
        "import karst_bench.records.lease, karst_bench.records.provenance\n"
        "heavy = {'torch', 'timm', 'wandb', 'hydra'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
