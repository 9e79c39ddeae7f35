"""A cluster for the session, and a folder for each sweep."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm import Slurm, slurm, why_not
from sweeping import METHOD_YAML, Sweep


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def sweep(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    for part in ("conf/method", "methods"):
        (tmp_path / "plugin" / part).mkdir(parents=True)
    (tmp_path / "hold").mkdir()
    (tmp_path / "plugin/conf/method/held.yaml").write_text(METHOD_YAML)
    shutil.copy(Path(__file__).parent / "held.py", tmp_path / "plugin/methods/held.py")
    shared = tmp_path_factory.getbasetemp() / "cache"
    made = Sweep(tmp_path, shared)
    yield made
    for process in made.began:
        if process.poll() is None:
            process.kill()
            process.wait()
