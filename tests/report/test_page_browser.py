"""The report page in a real, headless Chromium: sorting, filtering, records, keys, dark, a phone, a thousand records.

pip install karst_bench[browser] and a Chromium (apt-get install chromium, or KARST_BENCH_CHROMIUM=/path/to/one).
KARST_BENCH_SCREENSHOTS=DIR keeps a picture of each view.
"""

import os
from pathlib import Path

import pytest
from report_records import full_suite, record, write

from karst_bench.report.report import write_report
from scripts import docs_report_picture

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "results" / "report" / "mini" / "index.html"
EVIL = "</script><img src=x onerror=alert(2)>\"'` \u202eeno"


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install karst_bench[browser]")
    if (found := docs_report_picture.chromium()) is None:
        pytest.skip("no Chromium here (apt-get install chromium): the page was not opened in a browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=docs_report_picture.launch_arguments())
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """visit(path, ...): a page that is ready; at the end no console message, error, dialog or request has been seen."""
    contexts, seen = [], []

    def go(path, width=1280, height=900, scheme="light", **more):
        view = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "reduced_motion": "reduce"}
        context = chromium.new_context(**view, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(path.as_uri()) or seen.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert seen == []


def picture(page, name):
    if folder := os.environ.get("KARST_BENCH_SCREENSHOTS"):
        page.wait_for_timeout(400)
        page.screenshot(path=Path(folder) / f"{name}.png")


def shown_rows(page, table="table1"):
    return page.eval_on_selector_all(f"#{table} tbody tr:not([hidden])", "rows => rows.map(row => row.dataset.row)")


def numbers(page, column, table="table1"):
    """Values of a column from top to bottom, None for a dash."""
    script = """([table, column]) => {
      const heads = [...document.querySelectorAll(`#${table} thead tr:last-child th`)];
      const at = heads.findIndex(head => head.dataset.column === column);
      return [...document.querySelectorAll(`#${table} tbody tr:not([hidden])`)].map(row => row.cells[at].dataset.v ?? null);
    }"""
    return [None if value is None else float(value) for value in page.evaluate(script, [table, column])]


def test_a_table_sorts_and_filters(visit):
    page = visit(COMMITTED)
    picture(page, "light")
    printed = shown_rows(page)
    head = page.locator('#table1 th[data-column="task_avg"]')
    for order, wanted in ((True, "descending"), (False, "ascending")):
        head.locator("button").click()
        values = numbers(page, "task_avg")
        there = [value for value in values if value is not None]
        assert head.get_attribute("aria-sort") == wanted and there == sorted(there, reverse=order)
        assert values[len(there) :] == [None] * (len(values) - len(there))
    head.locator("button").click()
    assert shown_rows(page) == printed and head.get_attribute("aria-sort") is None
    page.fill('[data-tools="table1"] input', "karst")
    assert shown_rows(page) and all("karst" in row for row in shown_rows(page)) and len(shown_rows(page)) < len(printed)
    assert f"of {len(printed)} rows" in page.inner_text('[data-tools="table1"] .count')
    page.fill('[data-tools="table1"] input', "")
    page.click('[data-tools="table1"] button')
    page.locator("#table1").scroll_into_view_if_needed()
    picture(page, "shaded")


def test_a_number_leads_to_its_records_by_key_and_back(visit):
    page = visit(COMMITTED)
    link = page.locator('#table1 td a[href*="/karst"][href$="/digits"]').first
    link.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('href')").endswith("/glyphs")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    rows = dialog.locator("tr[data-index]")
    mean = sum(float(text) for text in rows.locator("td:nth-child(3)").all_inner_texts()) / rows.count()
    assert f"{mean:.1f}" in dialog.locator("h2").inner_text() and rows.count() > 1
    picture(page, "records")
    rows.nth(1).click()
    chosen = rows.nth(1).locator("td:last-child").inner_text()
    text = dialog.inner_text()
    assert (
        f"Record {chosen}" in text
        and "karst-bench run method=karst" in text
        and "method.r" in text
        and "commit" not in page.url
    )
    assert (ROOT / "results" / "report" / "mini" / dialog.locator('a[href$=".json"]').get_attribute("href")).is_file()
    assert dialog.locator("svg .series").count() >= 2 * rows.count()
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog[open]') && !location.hash")
    page.wait_for_function("(document.activeElement.getAttribute('href') || '').endsWith('/digits')")


def test_an_address_opens_a_record(visit):
    identity = sorted((ROOT / "results" / "reference" / "mini").glob("*.json"))[0].stem
    page = visit(COMMITTED)
    page.evaluate(f"location.hash = '#record/{identity}'")
    page.wait_for_selector("dialog[open]")
    assert identity in page.locator("dialog").inner_text()
    page.evaluate("location.hash = '#cell/no/such/%E0%A4%A'")
    page.wait_for_selector("dialog:not([open])", state="attached")


def test_marks_of_plots_tell_their_numbers_and_lead_to_records(visit):
    page = visit(COMMITTED)
    mark = page.locator("#plot-ranking a.mark").first
    mark.hover()
    told = page.inner_text("#tip")
    assert "Avg." in told and ("95 %" in told or "no interval" in told)
    mark.focus()
    page.keyboard.press("Enter")
    assert "records; select one" in page.locator("dialog[open]").inner_text()


def test_dark_as_the_system_and_by_the_button(visit):
    paper = "getComputedStyle(document.body).backgroundColor"
    assert visit(COMMITTED).evaluate(paper) == "rgb(255, 255, 255)"
    page = visit(COMMITTED, scheme="dark")
    dark = page.evaluate(paper)
    assert dark != "rgb(255, 255, 255)"
    picture(page, "dark")
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(paper) == dark


def test_a_phone_sees_everything_without_scrolling_the_page_sideways(visit):
    page = visit(COMMITTED, 400, 800, has_touch=True, is_mobile=True, device_scale_factor=2)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) == 400
    picture(page, "phone")
    page.locator("#table1 .wide").scroll_into_view_if_needed()
    picture(page, "phone_table")
    page.locator('#table1 td a[href$="/digits"]').first.tap()
    assert page.locator("dialog[open]").evaluate("node => node.scrollWidth") <= 400
    picture(page, "phone_records")


def test_hostile_records_do_nothing(visit, tmp_path):
    made = record(hyper={"note": EVIL, EVIL: 1}, notes=[EVIL], provenance__version=EVIL)
    write(tmp_path, made, record(seed=1))
    report = write_report("vtab", {"own": tmp_path / "runs" / "vtab"}, tmp_path / "report" / "vtab", pictures=False)
    page = visit(report.folder / "index.html")
    page.locator(f'#listing a[href="#record/{made["id"]}"]').first.click()
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert (
        dialog.locator("img").count() == 0
        and "onerror=alert(2)" in dialog.inner_text()
        and "[U+202E]eno" in dialog.inner_text()
    )


def test_a_thousand_records(visit, tmp_path, capsys):
    made = full_suite("mini", seeds=5)
    for number, item in enumerate(made):
        epochs = item["curves"]["epoch"]
        losses = [round(2.5 / epoch + number / 7919, 12) for epoch in epochs]
        item["curves"] |= {"train_loss": losses, "train_top1_pct": [100 / (1 + loss) for loss in losses], "lr": losses}
    write(tmp_path, *made)
    assert len(made) >= 1000
    report = write_report("mini", {"own": tmp_path / "runs" / "mini"}, tmp_path / "report" / "mini", pictures=False)
    assert not report.left_out
    path = report.folder / "index.html"
    size = path.stat().st_size
    assert size < 5_000_000
    page = visit(path)
    timing = "performance.getEntriesByType('navigation')[0]"
    parsed, ready = (page.evaluate(f"{timing}.{moment}") for moment in ("domInteractive", "domContentLoadedEventEnd"))
    with capsys.disabled():
        print(f"\n{len(made)} records, {size / 1e6:.2f} MB: parsed after {parsed:.0f} ms, interactive after {ready:.0f} ms")
    page.fill("#listing-tools input", "karst digits")
    assert page.locator("#listing tbody tr").count() > 0
    picture(page, "thousand")
