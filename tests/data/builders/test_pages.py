"""The page of sources is current, and the command line's words reach the builders."""

from pathlib import Path

import pytest
from originals import Original

from karst_bench.cli import data_sources
from karst_bench.errors import UserError
from scripts.pages.data_sources import page

ROOT = Path(__file__).parents[3]


def test_the_page_of_sources_is_current() -> None:
    written = (ROOT / "docs" / "data_sources.md").read_text(encoding="utf-8")
    assert written == page(), "run `python -m scripts.docs_data_sources` and commit docs/data_sources.md"


def test_preparing_and_status_by_their_words(
    originals: dict[str, tuple[Path, Original]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_sources.sets_status(tmp_path, "dtd,fgvc/cub") == 1
    said = capsys.readouterr().out
    assert "not here" in said and f"karst-bench data prepare tasks=vtab/dtd,fgvc/cub root={tmp_path}" in said
    folder = str(originals["dtd"][0])
    assert data_sources.prepare_sets(tmp_path, "dtd", archive=folder) == 1
    assert "verify=false" in capsys.readouterr().out
    assert data_sources.prepare_sets(tmp_path, "dtd", archive=folder, verify=False, encoding="jpeg75") == 0
    said = capsys.readouterr().out
    assert said.startswith("vtab/dtd: built in ") and said.endswith("1 of 1 sets are ready\n")
    assert data_sources.sets_status(tmp_path, "dtd") == 0
    said = capsys.readouterr().out
    assert (
        all(word in said for word in ("folder", "raw", "jpeg75", "differ from the published ones"))
        and "never" not in said
    )


def test_names_of_several_sets() -> None:
    assert len(data_sources.chosen_sets("all", ("vtab",))) == 19
    found = list(data_sources.chosen_sets("fgvc/all,vtab/dtd,vtab/natural,pets", bare=("vtab", "fgvc")))
    assert found[4:6] == ["fgvc/cars", "vtab/dtd"] and {"vtab/pets", "vtab/svhn"} < set(found) and "fewshot/pets" not in found
    for name, said in (("imagnet,dtd", "no such set"), ("ptes", "did you mean"), ("mini/digits", "take no preparation")):
        with pytest.raises(UserError, match=said):
            data_sources.chosen_sets(name)
