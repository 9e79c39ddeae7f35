"""Files of strangers are read, made anew or refused in a sentence: no traceback, no code, no memory beyond what they need."""

import os

import fuzz
import pytest
from kinds import Runs, planted

COUNT = int(os.environ.get("KARST_BENCH_FUZZ", "60"))
LONG = ("resumed runs", "notes on runs", "records")  # a run each


@pytest.fixture
def _path(monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves a bad archive open
@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("name", [name for name in fuzz.KINDS if name not in LONG])
def test_a_few_of_each_kind(tmp_path, name):
    outcome = fuzz.read_all(name, 4, "few", tmp_path, heavy=False)
    assert not outcome.defects and (outcome.files > outcome.counts["read"] or name == "leases")


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.KINDS)
def test_many_of_each_kind(tmp_path, name):
    outcome = fuzz.apart(name, COUNT, "many", tmp_path / "kind")
    assert not outcome.defects
    print(fuzz.table({name: outcome}))


def test_a_planted_pickle_would_be_seen(tmp_path):
    """The fuzz program is no better than what it plants."""
    import pickle

    for by_shell in (False, True):
        pickle.loads(pickle.dumps(Runs(planted(tmp_path), by_shell=by_shell)))
        assert planted(tmp_path).exists()
        planted(tmp_path).unlink()
