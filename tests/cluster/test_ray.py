"""A real Ray on this machine."""

import importlib.util
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sweeping import PATIENCE_S, ROOT, Sweep

without = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra [ray]")
pytestmark = [pytest.mark.cluster, without]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # its sockets need a short name
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_six_runs_one_of_whose_workers_is_stopped(sweep: Sweep, ray_folder: Path, number: signal.Signals) -> None:
    """Ray begins its run again, which goes on; SIGTERM is what a node that goes away sends."""
    ray = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", f"+hydra.launcher.ray.init._temp_dir={ray_folder}"]
    driver = sweep.begin(sweep.command("method=held,bitfit", "seed=0,1,2", *ray))
    _, pid = sweep.held()
    os.kill(pid, number)
    sweep.let_go()
    assert driver.wait(PATIENCE_S) == 0, sweep.said()
    assert len(sweep.records()) == 6 and sorted(sweep.begun()) == [1] * 5 + [2]


def test_the_example_is_a_cluster_by_rays_schema() -> None:
    import jsonschema
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((ROOT / "examples/ray_cluster.yaml").read_text()), schema)
