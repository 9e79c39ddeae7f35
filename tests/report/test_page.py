"""The report as one page: valid HTML that loads nothing, text that stays text, numbers that lead to their records."""

import json
import re
import urllib.parse
from dataclasses import replace
from importlib import resources
from pathlib import Path

import html5lib
import matplotlib
import msgspec
import pytest
from report_records import full_suite, record, write

from karst_bench.config.compose import settings_of
from karst_bench.records.identity import identify
from karst_bench.report import figures, style
from karst_bench.report.load import load_runs
from karst_bench.report.page import build
from karst_bench.report.page.records import GROUPS, OWN, SHARED, command, records_data
from karst_bench.report.page.text import plain, rounded, visible
from karst_bench.report.page.view import row_keys
from karst_bench.report.report import write_report
from karst_bench.report.table_model import Column, Table, TableCell, TableRow

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "mini"
# An end of the script element, markup, quotes, a turn of the direction of writing, a zero-width space, a line separator.
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & {{ 7 * 7 }} \u202eeno\u2066 \u200b \u2028 `${8 * 8}`"
XHTML = "{http://www.w3.org/1999/xhtml}"


def page_of(suite, results):
    """The tree, by a parser that refuses what is not valid HTML, the text, and the data of a report's page."""
    report = write_report(suite, {"own": results / "runs" / suite}, results / "report" / suite, pictures=False)
    text = (report.folder / "index.html").read_text()
    tree = html5lib.HTMLParser(strict=True).parse(text)
    (data,) = [node for node in tree.iter(f"{XHTML}script") if node.get("id") == "data"]
    return tree, text, json.loads(data.text)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    results = tmp_path_factory.mktemp("mini")
    made = [item for item in full_suite("mini", seeds=2) if item["config"]["method"]["name"] in ("karst", "lora")]
    write(results, *[item for item in made if item["config"]["dataset"]["shots"] in (None, 4)])
    return page_of("mini", results)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    results = tmp_path_factory.mktemp("hostile")
    write(
        results,
        record(
            weights__timm_name=EVIL, provenance__version=EVIL, provenance__cpu_model=EVIL, config__recipe={"name": EVIL},
            hyper={"note": EVIL, EVIL: 1}, notes=[EVIL], config__dataset__title=EVIL,
        ),
        record(seed=1),
    )  # fmt: skip
    (results / "runs" / "vtab" / "<b>'\u202e.json").write_text("{")
    (results / "published").mkdir()
    head = "method,backbone,task,value,n,protocol,source\n"
    (results / "published" / "x.csv").write_text(
        f'{head}"<u>{EVIL[:40].replace(chr(34), "")}",vit_b16,dtd,60,3,last,"<i>s"\n'
    )
    return page_of("vtab", results)


def nodes(tree, tag):
    return list(tree.iter(XHTML + tag))


def test_hostile_text_stays_text(hostile):
    tree, text, data = hostile
    scripts = nodes(tree, "script")
    assert [script.get("id") for script in scripts] == ["data", None]
    assert "alert(1)" not in scripts[1].text and not nodes(tree, "img") + nodes(tree, "i") + nodes(tree, "u") + nodes(
        tree, "b"
    )
    assert not [name for node in tree.iter() for name in node.attrib if name.startswith("on") or name == "style"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\u2028\u2029]", text)
    found = json.dumps(data)
    assert "[U+202E]eno[U+2066] [U+200B] [U+2028]" in found and "<script>alert(1)</script>" in found  # as text
    assert "{{ 7 * 7 }}" in found


def test_nothing_is_loaded_and_only_this_script_may_run(hostile, mini):
    for tree, _, _ in (hostile, mini):
        policy = next(node for node in nodes(tree, "meta") if node.get("http-equiv") == "Content-Security-Policy").get(
            "content"
        )
        script, style = nodes(tree, "script")[1].text, nodes(tree, "style")[0].text
        allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert allowed["default-src"] == "'none'" and set(allowed) == {
            "default-src",
            "script-src",
            "style-src",
            "base-uri",
            "form-action",
        }
        assert (
            allowed["script-src"] == f"'{build.sha256_source(script)}'"
            and allowed["style-src"] == f"'{build.sha256_source(style)}'"
        )
        assert not nodes(tree, "link") + nodes(tree, "iframe") + [n for n in tree.iter() if n.get("src") is not None]
        for link in nodes(tree, "a"):
            assert re.fullmatch(r"#[a-z0-9_]+|#cell/[^<>\"']+|[a-z0-9_]+\.(md|csv|tex|svg)", link.get("href")), (
                link.get("href")
            )


def test_the_script_makes_no_markup_and_asks_no_network():
    for name in build.SCRIPTS:
        text = resources.files("karst_bench.report.page").joinpath("assets", name).read_text()
        odd = re.findall(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp|import\(|</script",
            text,
        )
        assert not odd, f"{name}: {odd}"


def test_every_number_of_ours_leads_to_records_that_give_it(mini):
    tree, _, data = mini
    runs, checked = data["records"]["runs"], 0
    for table in nodes(tree, "table"):
        for row in (row for row in table.iter(f"{XHTML}tr") if row.get("data-row")):
            numbers = [cell for cell in row if cell.get("data-v") is not None]
            assert all(cell.find(f"{XHTML}a") is not None for cell in numbers), row.get("data-row")
            for cell in numbers:
                name, key, column = map(
                    urllib.parse.unquote, cell.find(f"{XHTML}a").get("href").removeprefix("#cell/").split("/")
                )
                (found,) = [line for line in data["tables"][name]["rows"] if line["k"] == key]
                stands_on = found["cells"][column].get("r") or [
                    r for other in found["cells"].values() for r in other.get("r", [])
                ]
                assert stands_on, (name, key, column)
                if name == "table1" and column in {run["t"].removeprefix("mini/") for run in runs}:
                    mean = sum(runs[r]["last"] for r in stands_on) / len(stands_on)
                    assert mean == pytest.approx(float(cell.get("data-v")), rel=1e-5)
                    checked += 1
    assert checked >= 18


def test_a_record_comes_back_whole_from_the_page():
    runs, _ = load_runs(REFERENCE, "mini")
    chosen = runs[::40]
    data = records_data(chosen, {"own": REFERENCE}, REFERENCE.parents[1] / "report" / "mini")
    pool = data["pool"]
    for run, found in zip(chosen, data["runs"], strict=True):
        whole = json.loads((REFERENCE / run.file).read_text())
        config = (
            pool[found["config"][0]]
            | {"seed": found["s"]}
            | dict(zip(GROUPS, (pool[n] for n in found["config"][1:]), strict=True))
        )
        assert {key: value for key, value in config.items() if value is not None} == {
            key: plain(value) for key, value in whole["config"].items() if key != "paths" and value is not None
        }
        assert found["loss"] == pytest.approx(whole["curves"]["train_loss"], rel=1e-3)
        assert pool[found["x"][0]] == whole["curves"]["epoch"]
        assert {key: found["own"][key] for key in OWN if key in whole} == {
            key: plain(whole[key]) for key in OWN if key in whole
        }
        assert dict(zip(SHARED, (pool[n] for n in found["shared"]), strict=True))["provenance"] == plain(
            whole["provenance"]
        )
        assert (REFERENCE.parents[1] / "report" / "mini" / found["f"]).resolve() == REFERENCE / run.file


def test_the_command_beside_a_record_makes_that_record():
    runs, _ = load_runs(REFERENCE, "mini")
    kinds = {(run.method, run.tuned, run.backbone, run.deviations, run.shots is None): run for run in runs}
    chosen = sorted(kinds.values(), key=lambda run: (not run.deviations, run.id))[:5]
    for run in chosen:
        words = command(run)
        assert words.startswith("karst-bench run "), (run.id, run.deviations)
        config = settings_of(words.split()[2:]).as_config()
        facts = run.record
        again = identify(
            config, weights_sha256=facts.weights.sha256, list_sha256=facts.data.list_sha256, encoding=facts.data.encoding,
            pixels_sha256=facts.data.pixels_sha256, schema=facts.id_schema,
        )  # fmt: skip
        assert again == run.id, words


def test_what_cannot_be_typed_gets_no_command():
    (run, *_), _ = load_runs(REFERENCE, "mini")
    assert command(replace(run, deviations=('sites=["qkv"]~0123abcd',))) == ""
    assert command(replace(run, deviations=("recipe.wd=0.1; rm x",))) == ""
    assert command(replace(run, dataset="own/leaves")) == "", "dataset=folder, and nobody knows here where it lies"
    assert command(replace(run, backbone="vit_tiny_patch16_224")) == "", "backbone.timm_name= of some other backbone"


def test_many_records_stay_small():
    """The page may be 5 MB with 1000 records; what a record adds to one that shares its groups is what counts."""
    runs, _ = load_runs(REFERENCE, "mini")
    sizes = [len(msgspec.json.encode(records_data(runs[:n], {}, Path()))) for n in (100, 180)]
    assert (sizes[1] - sizes[0]) / 80 < 4000


def test_row_keys_are_unique_and_told_apart_from_printed_ones():
    names = [("ours", "karst"), ("ours", "karst"), ("paper", "karst"), ("ours", "lora")]
    rows = [TableRow(source, {"method": TableCell(name)}) for source, name in names]
    table = Table("t", "T", [Column("method", "Method")], rows)
    assert row_keys(table) == ["karst", "karst #2", "karst (paper)", "lora"]


def test_visible_text_hides_nothing_and_is_bounded():
    assert visible("a\u202eb\u200b\x07\ud800") == "a[U+202E]b[U+200B][U+0007][U+D800]"
    assert visible("ü × 漢") == "ü × 漢"
    assert len(visible("x" * 9000)) == 400 and visible("x" * 9000).endswith("…")
    assert rounded(1 / 3) == 0.333333 and rounded(None) is None


def drawn_by_another_matplotlib() -> str | None:
    """Why the committed figures cannot be compared here; None where they can."""
    drawn_by = json.loads((ROOT / "results" / "report" / "mini" / "figures.json").read_text())["matplotlib"]
    here = matplotlib.__version__
    return None if drawn_by == here else f"the committed figures were drawn by matplotlib {drawn_by}, here is {here}"


def test_the_committed_page_and_tables_are_current(tmp_path, monkeypatch):
    """`make report SUITE=mini` writes them; the figures are compared apart, under the matplotlib that drew them."""
    monkeypatch.setattr(figures, "write_figures", lambda *arguments: None)
    (tmp_path / "reference").symlink_to(REFERENCE.parent, target_is_directory=True)
    write_report(
        "mini",
        {"reference": tmp_path / "reference" / "mini", "own": tmp_path / "runs" / "mini"},
        tmp_path / "report" / "mini",
    )
    committed = ROOT / "results" / "report" / "mini"
    differing = [
        path.name
        for path in sorted((tmp_path / "report" / "mini").iterdir())
        if not (committed / path.name).is_file() or (committed / path.name).read_bytes() != path.read_bytes()
    ]
    only_of_the_figures = drawn_by_another_matplotlib() if differing == ["figures.json"] else None
    assert not differing or only_of_the_figures, f"run `make report SUITE=mini` ({differing})"
    if only_of_the_figures:
        pytest.skip(f"all but figures.json is current; {only_of_the_figures}")


def test_whatever_the_committed_page_links_to_is_committed():
    text = (ROOT / "results" / "report" / "mini" / "index.html").read_text()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    links = set(re.findall(r'href="([a-z0-9_]+\.([a-z]+))"', text))
    assert len(links) > 12
    for name, suffix in links:
        assert (ROOT / "results" / "report" / "mini" / name).is_file(), name
        assert f"/results/report/mini/*.{suffix}" not in ignored, name


@pytest.mark.slow
def test_the_committed_figures_are_current(tmp_path, monkeypatch):
    if other := drawn_by_another_matplotlib():
        pytest.skip(other)
    monkeypatch.setattr(style, "FIGURE_FILES", {"svg": style.FIGURE_FILES["svg"]})
    report = write_report("mini", {"reference": REFERENCE}, tmp_path / "report" / "mini")
    assert report.figures
    for name in report.figures:
        committed = (ROOT / "results" / "report" / "mini" / f"{name}.svg").read_bytes()
        assert committed == (tmp_path / "report" / "mini" / f"{name}.svg").read_bytes(), (
            f"run `make report SUITE=mini` ({name})"
        )


def test_nothing_ran_is_a_page_too(tmp_path):
    _, text, data = page_of("mini", tmp_path)
    assert data["records"] == {"runs": [], "pool": []} and "0 finished runs of 0 methods" in text
