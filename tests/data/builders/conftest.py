"""Every original archive in miniature, and the folders that the builder makes of them; each made when first asked for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from miniatures import dataset_of
from originals import MAKERS, Original

from karst_bench.data.builders import prepare_data, sun397


class Originals(dict[str, tuple[Path, Original]]):
    """{task: (folder of its archives, what they hold)}; not to be changed."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, task: str) -> tuple[Path, Original]:
        if task == "camelyon":
            pytest.importorskip("h5py", reason="PatchCamelyon's files are HDF5")
        folder = self.root / task
        folder.mkdir()
        self[task] = folder, MAKERS[task](folder)
        return self[task]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    """{task: (folder of its archives, what they hold)}."""
    return Originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """paths.data, and the tasks that were built there so far."""
    return tmp_path_factory.mktemp("built"), set()


@pytest.fixture
def built(request: pytest.FixtureRequest, originals: Originals, builds: tuple[Path, set[str]]) -> Path:
    """paths.data with the test's task (its parameter `task`, else dtd) built from its archive as png; not to be changed."""
    root, done = builds
    task = request.node.callspec.params.get("task", "dtd") if hasattr(request.node, "callspec") else "dtd"
    if task not in done:
        folder = originals[task][0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sun397, "lists_folder", lambda: folder)
            (found,) = prepare_data({task: dataset_of(f"vtab/{task}")}, "raw", root, archive=folder, verify=False)
        assert found.state == "built", found.text
        done.add(task)
    return root
