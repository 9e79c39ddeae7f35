"""docs/own_program.md: every piece runs, where its packages are there."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own_program.md").read_text()
PIECES = dict(re.findall(r"^## (.+?)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE, flags=re.M | re.S))
PACKAGES = ("lightning", "accelerate")
ARGUMENTS = {"A Hydra application": ["method=bitfit", "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.run.dir=."]}


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
    monkeypatch.setattr(sys, "argv", ["piece.py", *ARGUMENTS.get(title, ())])
    Path("piece.py").write_text(code)
    runpy.run_path("piece.py", run_name="__main__")
    assert title == "A notebook" or list(tmp_path.glob("*.safetensors"))


def test_the_notebook_runs_in_a_kernel(tmp_path):
    """Cell by cell; a cell that attaches is refused the second time, and works after a detach."""
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package)
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    attach = 'karst_bench.attach(model, "ssf")'
    refused = new_code_cell(attach, metadata={"tags": ["raises-exception"]})
    cells = [new_code_cell(cell) for cell in re.split(r"\n\n(?=for )", PIECES["A notebook"])]
    after = [new_code_cell(attach), refused, new_code_cell("karst_bench.detach(model)"), new_code_cell(attach)]
    notebook = new_notebook(cells=[*cells, *after])
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert [line.split()[0] for line in printed.splitlines()] == ["lora", "karst", "dtl"]
    (error,) = (output for output in notebook.cells[3].outputs if output.output_type == "error")
    assert error.ename == "UserError" and "already attached" in error.evalue
