"""Every table of tuned=ours is one that a configuration can be composed with."""

import pytest

from karst_bench.config.compose import settings_of
from karst_bench.files import packaged

OURS = sorted(path.stem for path in (packaged("conf") / "tuned" / "ours").iterdir() if path.suffix == ".yaml")


@pytest.mark.parametrize("method", OURS)
def test_a_searched_table_is_used_on_its_backbone(method: str):
    settings = settings_of([f"method={method}", "dataset=mini/digits", "backbone=vit_mini", "tuned=ours"])
    assert settings.tuned["listed"] and settings.tuned["values"] == {"recipe.lr": settings.recipe.lr}
