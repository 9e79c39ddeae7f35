"""docs/methods.md says what the code does."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_current(settings):
    spec = importlib.util.spec_from_file_location("docs_methods", ROOT / "scripts" / "docs_methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._settings = lambda name: settings(f"method={name}")  # composed once for all tests
    assert (ROOT / "docs" / "methods.md").read_text() == module.render(), "run `python scripts/docs_methods.py`"
