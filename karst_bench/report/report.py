"""From a folder of records to a folder of tables, figures and pages: the whole story of a report on one screen."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

from karst_bench import files
from karst_bench.errors import UserError, nearest
from karst_bench.report import figure_data, formats, missing, paper, tables
from karst_bench.report.load import Run, load_folders
from karst_bench.report.missing import Gap
from karst_bench.report.page.build import PageContent, html_page
from karst_bench.report.published import PublishedRow, published_rows
from karst_bench.report.statistics import aggregate, pages
from karst_bench.report.statistics.aggregate import ResultsByMethod
from karst_bench.report.statistics.contrasts import Contrast, contrasts_table
from karst_bench.report.suite import FEW_SHOT, KERNELS, MAIN, Suite, load_suite
from karst_bench.report.table_model import Table

ORIGINS = {"reference": "reference", "own": "runs", "imported": "imported"}  # origin -> folder below paths.results
PICTURES = ("figure2", "figure3", "ablation", "pareto", "ranks")
FORMATS = {"md": formats.to_markdown, "csv": formats.to_csv, "tex": formats.to_latex}


@dataclass(frozen=True)
class Report:
    """What was written, for the terminal: the tables, what is missing, what was left out, and where the files are."""

    suite: str
    folder: Path
    runs: int
    sources: list[str]
    tables: list[Table]
    gaps: dict[str, list[Gap]]
    left_out: list[str]
    notes: list[str]


@dataclass(frozen=True)
class PlacedRuns:
    """The results behind each table, behind the few-shot figure, and, by backbone, those that neither has room for."""

    tables: Mapping[str, ResultsByMethod]
    few_shot: ResultsByMethod
    elsewhere: Mapping[str, ResultsByMethod]

    @property
    def run_ids(self) -> set[str]:
        """Ids of the runs that are in some table."""
        every = (*self.tables.values(), self.few_shot, *self.elsewhere.values())
        return {run.id for ours in every for settings in ours.values() for results in settings for run in results.runs}


def write_report(suite: str, folders: Mapping[str, Path], out: Path, pictures: bool = True, contrasts: Sequence[Contrast] = ()
) -> Report:
    """Read a suite's records, write every table and, with pictures, every figure to `out`.

    folders: origin (reference, own, ...) -> where its records lie; the report says which it read.

    Raises: UserError for an unknown suite or a folder that cannot be written.
    """
    layout = load_suite(suite)
    runs, left_out = load_folders(folders, suite)
    printed = paper.printed_tables(layout)
    placed = place_runs(runs, layout)
    grid = figure_data.ablation_grid(placed.tables[MAIN], layout)
    others, unread = published_rows(published_folders(out.parents[1]))
    left_out += unread
    made = report_tables(layout, placed, printed, grid, contrasts, others)
    gaps = report_gaps(layout, placed, grid)
    unbuilt = {name: missing.unbuilt(layout.sweeps[name]) for name in gaps}
    notes = run_notes(runs, layout, placed, printed)
    report = Report(suite, out, len(runs), source_lines(folders, runs), made, gaps, left_out, notes)
    for table in made:
        for suffix, text_of in FORMATS.items():
            write_text(out / f"{table.name}.{suffix}", text_of(table))
    costs = paper.printed_costs(layout, printed)
    if pictures:
        from karst_bench.report import figures  # matplotlib: a second, for those who want pictures

        figures.write_figures(
            out, layout, placed.tables[MAIN], figure_data.few_shot_curves(placed.few_shot, layout), grid, costs
        )
        write_text(out / "figures.json", json.dumps({"matplotlib": metadata.version("matplotlib")}) + "\n")
    write_text(out / "missing.md", missing.missing_page(gaps, suite, unbuilt))
    write_text(out / "missing.csv", missing.missing_csv(gaps))
    write_text(out / "left_out.txt", "".join(f"{line}\n" for line in left_out))
    content = PageContent(
        suite, runs, folders, out, made, gaps, left_out, notes, figure_data.method_costs(placed.tables[MAIN], layout, costs),
        pages.rank_methods(placed.tables[MAIN], layout), PICTURES if pictures else (),
    )  # fmt: skip
    write_text(out / "index.html", html_page(content))
    return report


def record_folders(results: Path, suite: str, records: str) -> dict[str, Path]:
    """Origin -> folder of the records of a suite below a results folder. Raises: UserError for an origin that is none."""
    names = records.split(",")
    if odd := [name for name in names if name not in ORIGINS]:
        raise UserError(f"records={odd[0]} is none of {', '.join(ORIGINS)}{nearest(odd[0], list(ORIGINS))}")
    return {name: results / ORIGINS[name] / suite for name in names}


def published_folders(results: Path) -> list[Path]:
    """Where numbers of others lie: with the package, and below the results folder if that is another place."""
    places = (files.packaged("results/published"), results / "published")
    return list({place.resolve(): place for place in places if place.is_dir()}.values())


def source_lines(folders: Mapping[str, Path], runs: Sequence[Run]) -> list[str]:
    """A line for each folder: how many runs came from it."""
    found = Counter(run.origin for run in runs)
    return [f"Read: {found[origin]} of {origin}, {'/'.join(folder.parts[-2:])}" for origin, folder in folders.items()]


def place_runs(runs: Iterable[Run], suite: Suite) -> PlacedRuns:
    """Which table each run belongs to, by dataset, backbone and protocol; runs that chose on val200 belong to none."""
    tested = [run for run in runs if run.last is not None]
    found: dict[str, list[Run]] = {}
    for sweep in suite.tables:
        names, backbones = {task.option for task in suite.of_table(sweep).tasks}, sweep.values("backbone")
        fitting = [run for run in tested if run.dataset in names and run.backbone in backbones]
        found[sweep.name] = [run for run in fitting if sweep.table and run.protocol in sweep.table.protocols]
    sets, backbones = {task.option for task in suite.few_shot_sets}, suite.sweeps[FEW_SHOT].values("backbone")
    few = [run for run in tested if run.dataset in sets and run.shots in suite.shots and run.backbone in backbones]
    shown = {run.id for group in (*found.values(), few) for run in group}
    rest: dict[str, list[Run]] = {}
    for run in (run for run in tested if run.id not in shown):
        rest.setdefault(run.backbone, []).append(run)
    return PlacedRuns(
        {name: aggregate.method_results(group) for name, group in found.items()},
        aggregate.method_results(few),
        {name: aggregate.method_results(rest[name], full_names=True) for name in sorted(rest)},
    )


def report_tables(
    suite: Suite, placed: PlacedRuns, printed: Mapping[str, pd.DataFrame], grid: figure_data.AblationGrid,
    contrasts: Sequence[Contrast] = (), others: Sequence[PublishedRow] = (),
) -> list[Table]:  # fmt: skip
    """The tables of the suite, what they have no room for, the statistics pages, and the numbers of the figures."""
    wrong, main = paper.misprints(printed, suite), placed.tables[MAIN]
    made = []
    for sweep in suite.tables:
        seen = suite.of_table(sweep)
        joining = others if seen == suite and sweep.table and sweep.table.further_methods else ()  # averages are of these tasks
        made.append(tables.side_by_side(sweep, seen, placed.tables[sweep.name], printed.get(sweep.name), wrong, joining))
    made += [tables.elsewhere_table(backbone, ours) for backbone, ours in placed.elsewhere.items()]
    made += [pages.methods_table(main, suite), contrasts_table(main, suite, contrasts)]
    made += [paper.paper_differences(suite, placed.tables, printed)] if printed else []
    curves = figure_data.few_shot_curves(placed.few_shot, suite)
    made.append(figure_data.few_shot_table(curves, suite.sweeps[FEW_SHOT].title))
    sweep = suite.sweeps[KERNELS]
    made.append(figure_data.grid_table(KERNELS, sweep.title, figure_data.kernel_sweep(grid, suite)))
    (method,) = sweep.values("method")
    made.append(figure_data.grid_table("ablation", f"Ablation of {method.upper()} over N, m and r", grid))
    return made


def report_gaps(suite: Suite, placed: PlacedRuns, grid: figure_data.AblationGrid) -> dict[str, list[Gap]]:
    """What each table and figure lacks."""
    gaps = {sweep.name: missing.table_gaps(sweep, suite.of_table(sweep), placed.tables[sweep.name]) for sweep in suite.tables}
    gaps[FEW_SHOT] = missing.few_shot_gaps(suite.sweeps[FEW_SHOT], suite, placed.few_shot)
    found = [point.kernels for point in figure_data.kernel_sweep(grid, suite).points]
    gaps[KERNELS] = missing.kernel_gaps(suite.sweeps[KERNELS], suite, found)
    return gaps


def run_notes(runs: Sequence[Run], suite: Suite, placed: PlacedRuns, printed: Mapping[str, pd.DataFrame]) -> list[str]:
    """Lines below everything: runs that no table shows, and how well the paper's means agree with its cells."""
    shown = placed.run_ids
    rest = [run for run in runs if run.id not in shown]
    notes = []
    if bare := sum(not run.digested for run in runs):
        notes.append(f"{bare} records were written before records had a digest: an edit of theirs would not show by itself.")
    notes.append(
        "Every id is computed again from its record, every digest and every pair of numbers within it is checked; what is forged "
        "with care cannot be seen without the predictions."
    )
    if rest:
        chosen = sum(run.last is None for run in rest)
        notes.append(
            f"{len(rest)} valid runs are in no table: {chosen} that report val200, {len(rest) - chosen} doubled or "
            "conflicting seeds."
        )
    if printed:
        largest = paper.largest_rounding(printed, suite)
        wrong = ", ".join(f"{m.method} {m.printed:.1f} -> {m.recomputed:.2f}" for m in paper.misprints(printed, suite))
        notes.append(
            f"Paper's means against its own cells: largest rounding {largest:.2f}; misprints (> 0.15): {wrong}."
        )
    return notes


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises: UserError where the folder cannot be written."""
    files.write(path, text.encode(), once=False)


def shown_in_terminal(table: Table, report: Report) -> bool:
    """The tables of the suite, and what they have no room for; not the numbers behind figures and statistics."""
    return table.name.startswith(tables.ELSEWHERE) or (table.name in report.gaps and table.name not in (FEW_SHOT, KERNELS))


def terminal_text(report: Report, colour: bool = False, only: str = "") -> str:
    """What a terminal shows: the tables (or `only` one), what is missing, what was left out, where the files lie."""
    chosen = [table for table in report.tables if (table.name == only if only else shown_in_terminal(table, report))]
    parts = [formats.to_terminal(table, colour) for table in chosen]
    missing_cells = {name: sum(len(gap.datasets) for gap in gaps) for name, gaps in report.gaps.items()}
    lines = [f"{report.runs} finished runs of suite {report.suite}; {len(report.left_out)} files left out."]
    lines += [*report.sources, f"  below {report.folder.parents[1]}"]
    lines += [f"  left out: {line}" for line in report.left_out]
    lines += report.notes
    lines.append("Missing cells: " + ", ".join(f"{name} {number}" for name, number in missing_cells.items()) + ".")
    first = next((gap for gaps in report.gaps.values() for gap in gaps), None)
    if first is not None:
        lines.append(f"  for example: {first.command(first.datasets[0])}")
        lines.append(f"  all of them: {report.folder / 'missing.md'}, one line per cell in missing.csv")
    lines.append(f"Written: {report.folder / 'index.html'} and beside it .md .csv .tex .svg .pdf .png")
    return "\n".join([*parts, *lines])
