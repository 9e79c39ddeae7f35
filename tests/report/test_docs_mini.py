"""docs/mini.md shows what the committed records say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("docs_mini", ROOT / "scripts" / "docs_mini.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(script):
    text = script.PAGE.read_text()
    runs = script.records(script.RESULTS)
    assert text == script.render(text, runs), "run `python scripts/docs_mini.py`"


def test_without_records_no_number_stands(script):
    text = script.render(script.PAGE.read_text(), [])
    assert "—" in text and "mean of nine" in text
    assert "minus linear" not in text and "Spearman" not in text
