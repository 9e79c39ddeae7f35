"""The README tells of what is there: every method with its count, every dataset."""

import re
from pathlib import Path

import pytest

from karst_bench.config import options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_method_table_agrees_with_the_generated_page() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    generated = {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| \[`(\w+)`\]\(#\w+\) \| (\S+) \| \S+ \| (\S+) \|", page, re.M)}
    told = {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| \[(\w+)\]\(docs\S+\) \| (\S+) \| (\S+) \|", README, re.M)}
    assert told == generated
    assert set(told) == set(options("method")) - {"none"}


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_dataset_is_named(dataset: str) -> None:
    suite, name = dataset.split("/")
    assert re.search(rf"`{suite}/` \+[^|]*\b{name}\b", README), f"README does not name {dataset}"


@pytest.mark.parametrize("target", re.findall(r"\]\(([\w/.]+)", README))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
