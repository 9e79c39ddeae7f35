"""docs/recipes.md and docs/closeness.md: they are what their script writes, and claim no test that is not there."""

import importlib.util
import re
from pathlib import Path

import pytest

from karst_bench.config.option_files import config_dir, options

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("docs_recipes", ROOT / "scripts" / "docs_recipes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current(script):
    """Writing them also finds a field that differs from the paper's without a reason, and a reason without a difference."""
    assert (ROOT / "docs" / "recipes.md").read_text() == script.recipes_page(), "run `python scripts/docs_recipes.py`"
    assert (ROOT / "docs" / "closeness.md").read_text() == script.closeness_page(), "run `python scripts/docs_recipes.py`"


def test_every_paper_table_has_its_section(script):
    tables = {path.stem for path in (config_dir() / "tuned" / "paper").glob("*.yaml")}
    assert tables == {fact["table"] for fact in script.published()}


def test_a_difference_without_a_reason_is_refused(script):
    settings = script.settings_of(["method=fact_tk", "dataset=vtab/cifar100", "tuned=paper"])
    fact = next(fact for fact in script.published() if (fact["table"], fact["field"]) == ("fact_tk", "lr"))
    assert script.difference(settings, fact) == ""
    for wrong in (fact | {"value": "2e-3"}, fact | {"why": "as it pleases"}):
        with pytest.raises(ValueError, match="fact_tk vtab lr"):
            script.difference(settings, wrong)


def test_every_method_has_its_row_and_every_named_test_is_there(script):
    rows = list(script.closeness())
    assert {row["method"] for row in rows} == set(options("method")) - {"none"}
    for cell in {row[key] for row in rows for key in ("forward", "start", "training")}:
        for file, name in re.findall(r"(test_\w+\.py)::(?:\w+::)?(test_\w+)", cell):
            assert f"def {name}(" in (ROOT / "tests" / "methods" / file).read_text(), f"{file}::{name}"
