"""docs/methods.md says what the code does."""

from pathlib import Path

from scripts.pages import methods

ROOT = Path(__file__).parents[2]


def test_the_page_is_current(settings, monkeypatch):
    monkeypatch.setattr(methods, "_settings", lambda name: settings(f"method={name}"))  # composed once for all tests
    assert (ROOT / "docs" / "methods.md").read_text() == methods.render(), "run `python scripts/docs_methods.py`"
