"""docs/own_program.md: every piece runs, where its packages are there."""

import importlib.util
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own_program.md").read_text()
PIECES = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", PAGE, flags=re.M | re.S))
PACKAGES = ("lightning", "accelerate")


def test_the_page_has_its_pieces():
    assert set(PIECES) == {"A loop", "A Hydra application", "A Lightning module", "Accelerate", "A notebook"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("title", PIECES)
def test_a_piece_runs(title, tmp_path, monkeypatch):
    code = PIECES[title]
    for package in PACKAGES:
        if (f"import {package}" in code or f"from {package}" in code) and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"docs/own_program.md, {title}", "exec"), {"__name__": "piece"})
