"""The 24 sets in miniature, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniatures import FEWSHOT, VTAB, make_fewshot, make_vtab


@pytest.fixture(scope="session")
def all_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with all 24 sets in miniature; not to be changed."""
    root = tmp_path_factory.mktemp("data")
    for name in VTAB:
        make_vtab(root, f"vtab/{name}")
    for name in FEWSHOT:
        make_fewshot(root, f"fewshot/{name}")
    return root
