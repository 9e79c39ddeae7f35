"""Records of schema 1 are read as what they say: eight of those that version 1 of the embedded suite had."""

import json
from pathlib import Path

import pytest
from msgspec import to_builtins

from karst_bench.records import record as schema
from karst_bench.records.identity import recomputed_id
from karst_bench.records.migrations import PACKAGES_1
from karst_bench.records.record import FailedRun, RunRecord

OLD = sorted((Path(__file__).parent / "schema1").glob("*.json"))


def facts_of(value):
    """The facts of a parsed record: what is null, false or empty and what says its layout left out."""
    if isinstance(value, list):
        return [facts_of(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: facts_of(item) for key, item in value.items() if key not in ("schema", "id_schema", "digest", "undigested")}
    return {key: item for key, item in kept.items() if item not in (None, [], {}) and item is not False}


def test_the_old_records_are_there_and_of_schema_1():
    assert len(OLD) == 8 and all(json.loads(path.read_text())["schema"] == 1 for path in OLD)


def test_old_records_say_the_same_in_the_present_layout():
    for path in OLD:
        old, new = json.loads(path.read_text()), json.loads(schema.dumps(schema.load(path)))
        assert old.pop("config") == new.pop("config"), path.name
        old["provenance"]["packages"] = {key: old["provenance"].pop(key) for key in PACKAGES_1}
        assert facts_of(old) == facts_of(new), path.name


def test_a_migrated_record_read_again_is_the_same():
    record = schema.load(OLD[0])
    assert schema.loads(schema.dumps(record)) == record
    assert (record.schema, record.id_schema, record.undigested) == (3, 1, True)


def test_ids_follow_from_what_old_records_say():
    assert [path.stem for path in OLD] == [recomputed_id(schema.load(path)) for path in OLD]


@pytest.fixture
def old_failure(failure):
    """A failed run as schema 1 wrote it."""
    fields = to_builtins(failure)
    del fields["id_schema"]
    fields["provenance"] = {"version": "0.1.0", "torch": "2.15.0", "optuna": None}
    return fields | {"schema": 1, "adapter": None, "attempts": 2}


def test_an_old_failure_is_read(old_failure, failure):
    found = schema.loads(json.dumps(old_failure))
    assert isinstance(found, FailedRun) and found.attempts == 2
    assert found.provenance == failure.provenance and found.id_schema == 1


def test_nothing_unknown_passes_in_an_old_record():
    fields = json.loads(OLD[0].read_text())
    assert isinstance(schema.loads(json.dumps(fields)), RunRecord)
    with pytest.raises(schema.RecordError, match="unknown field `surprise`"):
        schema.loads(json.dumps(fields | {"surprise": 1}))
