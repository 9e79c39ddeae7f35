"""What a process holds does not grow with the cells it has run (four minutes; python tests/run/many_cells.py says how much)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_five_hundred_cells_in_one_process():
    program = Path(__file__).with_name("many_cells.py")
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "500 cells" in ended.stdout, ended.stdout + ended.stderr[-2000:]
