"""examples/: what they promise."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
