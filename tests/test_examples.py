"""examples/: what they promise."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from karst_bench.records.store import Store

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_photographs_become_a_table_and_pictures(tmp_path: Path) -> None:
    """Three methods on class folders that the script draws: a row each with the set as a column, and a figure."""
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    said = subprocess.run(["bash", str(ROOT / "examples/own_photos.sh")], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, check=True).stdout  # fmt: skip
    report = tmp_path / "results" / "report" / "vtab"
    table = next(report.glob("runs_*.csv"))
    with table.open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"linear", "lora", "karst"} and "own/leaves" in said
    accuracies = {name: float(row["own/leaves"]) for name, row in rows.items()}
    assert accuracies["karst"] > 60 and all(value > 40 for value in accuracies.values())  # chance is a third
    assert any(path.suffix == ".png" and path.stat().st_size > 10_000 for path in report.iterdir())


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.s*")), ids=lambda path: path.name)
def test_scripts_can_be_read(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"


def test_the_ray_cluster_grows_from_nothing_and_its_head_trains_nothing() -> None:
    nodes = yaml.safe_load((ROOT / "examples/ray_cluster.yaml").read_text())
    worker = nodes["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0 < worker["max_workers"] <= nodes["max_workers"] and worker["resources"]["GPU"] > 0
    assert nodes["available_node_types"][nodes["head_node_type"]]["resources"]["CPU"] == 0


@pytest.mark.slow
def test_workers_of_one_machine_share_a_sweep(tmp_path: Path) -> None:
    """Two workers, as on two GPUs; every run is there, none was begun twice."""
    environment = os.environ | {"GPUS": "0 1", "RUNS_PER_GPU": "1", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
                                "OMP_NUM_THREADS": "1", "LOGS": str(tmp_path / "logs")}  # fmt: skip
    words = ["-m", "method=linear,bitfit", "seed=0,1", "dataset=mini/digits", "backbone.weights=none", "recipe.epochs=2",
             "recipe.batch=250", "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}", "device=cpu",
             f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]  # fmt: skip
    done = subprocess.run(["bash", str(ROOT / "examples/node.sh"), *words], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)  # fmt: skip
    logs = "".join(path.read_text() for path in sorted((tmp_path / "logs").iterdir()))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert "2 workers" in done.stdout and "4 cells: 4 done" in done.stdout
    assert len(list(Store(tmp_path / "results", "mini").records())) == 4
    begun = [path.read_text().count(" karst_bench: on ") for path in (tmp_path / "results/logs/mini").iterdir()]
    assert begun == [1] * 4
