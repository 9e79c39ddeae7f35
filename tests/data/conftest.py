"""The 24 sets in miniature, made once."""

import logging
from collections.abc import Iterator
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


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What data/ tells a person during the test: its messages of level info and above."""
    found: list[str] = []
    handler, logger = logging.Handler(logging.INFO), logging.getLogger("karst_bench.data")
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
