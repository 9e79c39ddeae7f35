"""docs/report.png, the README's picture of the report page: python scripts/docs_report_picture.py

The committed page in a headless Chromium, at its figures, with the pointer on KARST. It takes karst_bench[browser] and a
Chromium (KARST_BENCH_CHROMIUM=/path/to/one, else the one of the system).
"""

import os
import shutil
from pathlib import Path

from karst_bench import files
from karst_bench.cli.app import generator
from karst_bench.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "results" / "report" / "mini" / "index.html"
PICTURE = ROOT / "docs" / "report.png"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1240, 1500


def chromium() -> str | None:
    """Where a Chromium lies, or None."""
    return os.environ.get("KARST_BENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def launch_arguments() -> list[str]:
    """What a Chromium wants to hear: root cannot use its sandbox."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []


def main() -> None:
    """Writes docs/report.png from results/report/mini/index.html."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("pip install 'karst_bench[browser]' brings what opens the page") from error
    if (found := chromium()) is None:
        raise UserError("no Chromium here: apt-get install chromium, or KARST_BENCH_CHROMIUM=/path/to/one")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=launch_arguments())
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce")
        page.goto(PAGE.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        page.evaluate("window.scrollTo(0, document.getElementById('figures').offsetTop - 60)")
        page.locator('#plot-costs a.mark[aria-label^="karst ["]').first.evaluate("mark => mark.focus({preventScroll: true})")
        files.write(PICTURE, page.screenshot(), once=False)
        browser.close()
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    generator(main)
