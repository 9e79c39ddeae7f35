"""index.html: everything in one file that opens from disk and may load nothing, by its own Content-Security-Policy."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from karst_bench.report.figure_data import MethodCost, cost_front
from karst_bench.report.load import Run
from karst_bench.report.missing import Gap
from karst_bench.report.page.records import GROUPS, SHARED, records_data
from karst_bench.report.page.text import plain, rounded, visible
from karst_bench.report.page.view import table_data, table_view
from karst_bench.report.sections import Section
from karst_bench.report.suite import FEW_SHOT, KERNELS, MAIN
from karst_bench.report.table_model import Table

SCRIPTS = ("dom.js", "plot.js", "tables.js", "curves.js", "viewer.js", "figures.js", "listing.js", "start.js")
FOLDED = ("paper_diff", "figure2", "figure3", "ablation")  # how tables begin that hold numbers behind figures: a click opens them
HOURS = 3600.0


@dataclass(frozen=True)
class PageContent:
    """What the page shows. folders: origin -> where records were read; main: what its plots are of; drawn: names of the figures
    that lie beside the page as SVG."""

    suite: str
    runs: Sequence[Run]
    folders: Mapping[str, Path]
    out: Path
    tables: Sequence[Table]
    gaps: Mapping[str, Sequence[Gap]]
    left_out: Sequence[str]
    notes: Sequence[str]
    main: Section | None
    drawn: Sequence[str] = ()


def html_page(content: PageContent) -> str:
    """The page; Jinja escapes every value and the script sets text alone, so that no text of a record becomes markup."""
    environment = Environment(
        loader=PackageLoader("karst_bench.report.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style, script = _asset("page.css"), "".join(map(_asset, SCRIPTS))
    runs_of = row_runs(content.tables)
    views = [table_view(table, runs_of) for table in content.tables]
    return environment.get_template("index.html.j2").render(
        suite=content.suite, facts=run_facts(content.runs), tables=[view for view in views if not view.name.startswith(FOLDED)],
        folded=[view for view in views if view.name.startswith(FOLDED) and view.rows], gaps=content.gaps, drawn=content.drawn,
        left_out=[visible(line) for line in content.left_out], notes=[visible(note, 2000) for note in content.notes],
        data=json_block(page_data(content, runs_of)), style=Markup(style), script=Markup(script),
        style_hash=sha256_source(style), script_hash=sha256_source(script),
    )  # fmt: skip


def _asset(name: str) -> str:
    return resources.files("karst_bench.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def sha256_source(text: str) -> str:
    """The hash by which a Content-Security-Policy allows this very text and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def json_block(data: object) -> Markup:
    """JSON for a script element: ASCII, and without a character that could end the element."""
    return htmlsafe_json_dumps(data, dumps=json.dumps, separators=(",", ":"), sort_keys=True, allow_nan=False)


def row_runs(tables: Sequence[Table]) -> dict[str, tuple[str, ...]]:
    """Label of a method's row -> ids of its records; of the first table that has it."""
    found: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for row in table.rows:
            cell = row.cells.get("method")
            if cell is not None and cell.runs and row.source == "ours":
                found.setdefault(cell.text, cell.runs)
    return found


def page_data(content: PageContent, runs_of: Mapping[str, tuple[str, ...]]) -> dict[str, object]:
    """What the script works on: tables, costs, ranks, records."""
    number = {run.id: index for index, run in enumerate(content.runs)}
    main = content.main
    costs = [[title, _costs(points, number)] for title, points in main.costs.items()] if main else []
    ranks = main.ranks[1] if main and main.ranks else None
    return {
        "suite": content.suite, "groups": GROUPS, "shared": SHARED, "costs": costs, "names": plot_names(content),
        "tables": {table.name: table_data(table, runs_of, number) for table in content.tables},
        "ranks": None if ranks is None else {
            "critical": rounded(ranks.critical), "p": rounded(ranks.friedman_p), "mean": plain(dict(ranks.mean)),
        },
        "records": records_data(content.runs, content.folders, content.out),
    }  # fmt: skip


def plot_names(content: PageContent) -> dict[str, str]:
    """The tables that the plots are of: those of the main section, and the first few-shot figure that has a row."""
    suffix = content.main.suffix if content.main else ""
    few = [table.name for table in content.tables if table.name.startswith(FEW_SHOT) and table.rows]
    return {
        "main": suffix.removeprefix("_") or MAIN, "pairs": f"pairs{suffix}", "statistics": f"statistics{suffix}",
        "kernels": f"{KERNELS}{suffix}", "ablation": f"ablation{suffix}", "few": few[0] if few else FEW_SHOT,
    }  # fmt: skip


def _costs(points: Sequence[MethodCost], number: Mapping[str, int]) -> list[dict[str, object]]:
    front = set(cost_front(points))
    return [_cost(point, number) | ({"front": True} if index in front else {}) for index, point in enumerate(points)]


def _cost(point: MethodCost, number: Mapping[str, int]) -> dict[str, object]:
    found = {
        "m": visible(point.label),
        "source": point.source,
        "x": rounded(point.cost),
        "v": rounded(point.accuracy.value),
    }
    bounds = {"lo": rounded(point.accuracy.low), "hi": rounded(point.accuracy.high)}
    kept = {key: value for key, value in (found | bounds).items() if value is not None}
    return kept | {"n": point.accuracy.n, "r": sorted(number[run] for run in point.runs if run in number)}


def run_facts(runs: Sequence[Run]) -> dict[str, object]:
    """The numbers at the head of the page: how many runs of what, when, where, and how long they took in all."""
    machines = Counter[str]()
    hours: dict[str, float] = {}
    for run in runs:
        machines[run.machine] += 1
        spent = run.record.seconds.total_s if run.record is not None else None
        hours[run.machine] = hours.get(run.machine, 0.0) + (spent or 0.0) / HOURS
    days = sorted(run.created[:10] for run in runs)
    return {
        "runs": len(runs), "methods": len({run.method for run in runs}), "tasks": len({run.dataset for run in runs}),
        "backbones": len({run.backbone for run in runs}), "commits": len({run.commit for run in runs}),
        "origins": [f"{count} {origin}" for origin, count in sorted(Counter(run.origin for run in runs).items())],
        "machines": [(visible(name), count, hours[name]) for name, count in machines.most_common()],
        "hours": sum(hours.values()), "days": (visible(days[0]), visible(days[-1])) if days else None,
    }  # fmt: skip
