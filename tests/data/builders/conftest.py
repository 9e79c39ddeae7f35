"""Every original archive in miniature, made once, and the folders that the builder makes of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from miniatures import dataset_of
from originals import MAKERS, Original

from karst_bench.data.builders import prepare, sun397


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Original]]:
    """{task: (folder of its archives, what they hold)}; not to be changed."""
    root = tmp_path_factory.mktemp("originals")
    found = {}
    for task, make in MAKERS.items():
        if task == "camelyon":
            pytest.importorskip("h5py", reason="PatchCamelyon's files are HDF5")
        folder = root / task
        folder.mkdir()
        found[task] = folder, make(folder)
    return found


@pytest.fixture(scope="session")
def built(originals: dict[str, tuple[Path, Original]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """paths.data with all 19 tasks built from their miniature archives, as png; not to be changed."""
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sun397, "lists_folder", lambda: originals["sun397"][0])
        for task, (folder, _) in originals.items():
            (done,) = prepare({task: dataset_of(f"vtab/{task}")}, "raw", root, archive=folder, verify=False)
            assert done.state == "built", done.text
    return root
