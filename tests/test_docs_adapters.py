"""docs/adapters.md: its Python runs in order, its numbers are those of docs/effective_rank.csv."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adapters.md").read_text()
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def test_the_page_runs(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    assert all(verb in code for verb in ("attach", "merge", "unmerge", "save_adapter", "load_adapter", "export", "load_peft"))
    exec(compile(code, "docs/adapters.md", "exec"), {})
    assert "was trained beside other weights" in capsys.readouterr().out


def test_the_ranks_are_the_tables() -> None:
    rows = list(csv.DictReader((ROOT / "docs" / "effective_rank.csv").read_text().splitlines()))
    lines = re.search(r"<!-- ranks -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)[1].splitlines()[2:]  # type: ignore[index]
    for line in lines:
        method, *cells, top1 = [cell.strip() for cell in line.strip("|").split("|")]
        own = [row for row in rows if row["method"] == method]
        assert {f"{float(row['test_top1_pct']):.2f}" for row in own} == {top1}
        for layer, cell in zip(LAYERS, cells, strict=True):
            ranks = [float(row["effective_rank"]) for row in own if row["layer"].endswith(layer)]
            assert cell == (f"{sum(ranks) / len(ranks):.1f}" if ranks else "-")
    assert {row["method"] for row in rows} == {line.split("|")[1].strip() for line in lines}
