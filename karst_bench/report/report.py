"""From a folder of records to a folder of tables, figures and pages: the whole story of a report on one screen."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pandas as pd

from karst_bench import files
from karst_bench.errors import UserError, briefly
from karst_bench.report import formats, missing, paper, results_csv, tables
from karst_bench.report.figure_data import FewShotCurves
from karst_bench.report.load import Run
from karst_bench.report.missing import Gap
from karst_bench.report.page.build import PageContent, html_page
from karst_bench.report.placing import PlacedRuns, place_runs
from karst_bench.report.published import PublishedRow, published_rows
from karst_bench.report.sections import (
    Section,
    few_shot_figures,
    figure_captions,
    figure_tables,
    sections_of,
    statistics_tables,
)
from karst_bench.report.sources import check_named, published_folders, source_lines, suite_runs
from karst_bench.report.statistics.contrasts import declared_pairs
from karst_bench.report.suite import FEW_SHOT, KERNELS, MAIN, Suite
from karst_bench.report.table_model import Table

log = logging.getLogger(__name__)
FORMATS = {"md": formats.to_markdown, "csv": formats.to_csv, "tex": formats.to_latex}
LINES = 20  # of what was left out, in a terminal
MANIFEST = "manifest.txt"  # the files of a report, so that the next one in its place leaves none of them standing


@dataclass(frozen=True)
class Report:
    """What was written, for the terminal: the tables, the figures with their captions, what is missing, what was left out, and
    where the files are."""

    suite: str
    folder: Path
    runs: int
    sources: list[str]
    tables: list[Table]
    gaps: dict[str, list[Gap]]
    left_out: list[str]
    notes: list[str]
    figures: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)  # in the order of the sources


def write_report(
    suite: str, folders: Mapping[str, Path], out: Path, pictures: bool = True, contrasts: str = "", results: Path | None = None,
    tasks: Sequence[str] = (),
) -> Report:  # fmt: skip
    """Read a suite's records, write every table and, with pictures, every figure to `out`.

    folders: origin (reference, own, ...) -> where its records lie; the report says which it read. contrasts: pairs as on the
    command line. results: where numbers of others may lie. tasks: datasets that are tables of their own, nothing else then.

    Raises: UserError for an unknown suite or a folder that cannot be written.
    """
    layout, runs, left_out = suite_runs(folders, suite)
    check_named(tasks, runs)
    printed = paper.printed_tables(layout) if not tasks else {}
    placed = place_runs(runs, layout, tasks)
    sections = sections_of(layout, placed, printed)
    others, unread = published_rows(published_folders(results or out.parents[1]))
    declared = declared_pairs(contrasts, layout)
    made = suite_tables(layout, placed, printed, others)
    made += [tables.group_table(group.name, group.title, group.footing, group.view, group.rows) for group in placed.groups]
    made += statistics_tables(layout, sections, placed, declared)
    made += [paper.paper_differences(layout, placed.tables, printed)] if printed else []
    made += figure_tables(layout, sections, placed)
    gaps = report_gaps(layout, placed) if placed.tables else {}
    unbuilt = {name: missing.unbuilt(layout.sweeps[name]) for name in gaps}
    lines = [*left_out, *unread, *placed.unplaced]
    written = {f"{table.name}.{suffix}": text_of(table) for table in made for suffix, text_of in FORMATS.items()}
    drawn = figure_captions(layout, placed, sections) if pictures else {}
    if pictures:
        failed = _draw(out, few_shot_figures(layout, placed), sections)
        drawn, lines = ({}, [*lines, failed]) if failed else (drawn, lines)
        written["figures.json"] = json.dumps({"matplotlib": metadata.version("matplotlib")}) + "\n"
    notes, sources = run_notes(runs, layout, printed), source_lines(folders, runs)
    report = Report(suite, out, len(runs), sources, made, gaps, lines, notes, drawn, list(folders.values()))
    content = PageContent(suite, runs, folders, out, made, gaps, lines, notes, page_section(sections), tuple(drawn))
    written |= {
        "results.csv": results_csv.long_csv(suite, runs, placed.where), "results_wide.csv": results_csv.wide_csv(suite, runs),
        "missing.md": missing.missing_page(gaps, suite, unbuilt), "missing.csv": missing.missing_csv(gaps),
        "left_out.txt": "".join(f"{line}\n" for line in lines), "index.html": html_page(content),
    }  # fmt: skip
    write_all(out, written, [f"{name}.{form}" for name in drawn for form in figure_forms()])
    return report


def _draw(out: Path, shots: Iterable[tuple[str, str, FewShotCurves]], sections: Sequence[Section]) -> str:
    """Writes the figures; why there are none, where they cannot be drawn: tables are not lost to a picture."""
    from karst_bench.report import figures  # matplotlib: a second, for those who want pictures

    out.mkdir(parents=True, exist_ok=True)
    try:
        figures.write_figures(out, shots, sections)
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = f"the figures could not be drawn: {briefly(error)}"
        log.warning("%s; the tables are whole", reason)
        return reason
    return ""


def page_section(sections: Sequence[Section]) -> Section | None:
    """What the plots of the page show: the suite's main table where it holds runs, else the group with most of them."""
    size = [sum(len(results.runs) for settings in section.ours.values() for results in settings) for section in sections]
    main = [section for section, runs in zip(sections, size, strict=True) if runs and not section.suffix]
    return next(iter(main), sections[size.index(max(size))] if size else None)


def figure_forms() -> list[str]:
    """The suffixes that pictures are written with."""
    from karst_bench.report.style import FIGURE_FILES

    return list(FIGURE_FILES)


def suite_tables(
    suite: Suite, placed: PlacedRuns, printed: Mapping[str, pd.DataFrame], others: Sequence[PublishedRow]
) -> list[Table]:  # fmt: skip
    """The tables that the suite's sweeps describe."""
    wrong, made = paper.misprints(printed, suite), []
    for sweep in suite.tables if placed.tables else []:
        seen = suite.of_table(sweep)
        joining = others if seen == suite and sweep.table and sweep.table.further_methods else ()  # averages are of these tasks
        made.append(tables.side_by_side(sweep, seen, placed.tables[sweep.name], printed.get(sweep.name), wrong, joining))
    return made


def report_gaps(suite: Suite, placed: PlacedRuns) -> dict[str, list[Gap]]:
    """What each table and figure lacks."""
    gaps = {sweep.name: missing.table_gaps(sweep, suite.of_table(sweep), placed.tables[sweep.name]) for sweep in suite.tables}
    gaps[FEW_SHOT] = missing.few_shot_gaps(suite.sweeps[FEW_SHOT], suite, placed.few_shot)
    gaps[KERNELS] = missing.kernel_gaps(suite.sweeps[KERNELS], suite, placed.tables[MAIN])
    return gaps


def run_notes(runs: Iterable[Run], suite: Suite, printed: Mapping[str, pd.DataFrame]) -> list[str]:
    """Lines below everything: what reading checks, and how well the paper's means agree with its cells."""
    notes = []
    if bare := sum(not run.digested for run in runs):
        notes.append(f"{bare} records were written before records had a digest: an edit of theirs would not show by itself.")
    notes.append(
        "Every id is computed again from its record, every digest and every pair of numbers within it is checked; what is forged "
        "with care cannot be seen without the predictions."
    )
    if printed:
        largest = paper.largest_rounding(printed, suite)
        wrong = ", ".join(f"{m.method} {m.printed:.1f} -> {m.recomputed:.2f}" for m in paper.misprints(printed, suite))
        notes.append(
            f"Paper's means against its own cells: largest rounding {largest:.2f}; misprints (> 0.15): {wrong}."
        )
    return notes


def write_all(folder: Path, texts: Mapping[str, str], pictures: Sequence[str]) -> None:
    """Write the files, and take away those of an earlier report in this folder that this one does not have.

    Raises: UserError where the folder cannot be written.
    """
    for name, text in texts.items():
        files.write(folder / name, text.encode(), once=False)
    now = sorted({*texts, *pictures, MANIFEST})
    try:
        before = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        before = []
    files.write(folder / MANIFEST, "".join(f"{name}\n" for name in now).encode(), once=False)
    for name in set(before) - set(now):
        if Path(name).name == name and (folder / name).is_file():
            (folder / name).unlink()


def shown_in_terminal(report: Report) -> list[Table]:
    """The suite's tables that hold runs (all where none does) and the groups; not the numbers behind figures and statistics."""
    own = [table for table in report.tables if table.name in report.gaps and table.name not in (FEW_SHOT, KERNELS)]
    groups = [table for table in report.tables if table.name.startswith("runs_")]
    held = [table for table in own if any(row.source == "ours" for row in table.rows)]
    return [*held, *groups] if held or groups else own


def terminal_text(report: Report, colour: bool = False, only: str = "") -> str:
    """What a terminal shows: the tables (or `only` one), what is missing, what was left out, where the files lie."""
    chosen = [table for table in report.tables if table.name == only] if only else shown_in_terminal(report)
    parts = [formats.to_terminal(table, colour) for table in chosen]
    missing_cells = {name: sum(len(gap.datasets) for gap in gaps) for name, gaps in report.gaps.items()}
    left = len(report.left_out)
    lines = [f"{report.runs} finished runs of suite {report.suite}; {left} left out{':' if left else '.'}"]
    lines += [f"  left out: {line}" for line in report.left_out[:LINES]]
    lines += [f"  and {left - LINES} more, each with its reason: {report.folder / 'left_out.txt'}"] if left > LINES else []
    lines += [*(f"{line}  ({folder})" for line, folder in zip(report.sources, report.folders, strict=True)), *report.notes]
    if missing_cells:
        lines.append("Missing cells: " + ", ".join(f"{name} {number}" for name, number in missing_cells.items()) + ".")
    first = next((gap for gaps in report.gaps.values() for gap in gaps), None)
    if first is not None:
        lines.append(f"  for example: {first.command(first.datasets[0])}")
        lines.append(f"  all of them: {report.folder / 'missing.md'}, one line per cell in missing.csv")
    lines.append(f"All results: {report.folder / 'results.csv'} (a line a run), results_wide.csv (a line a row)")
    pictures = " .svg .pdf .png" if report.figures else ""
    lines.append(f"Written: {report.folder / 'index.html'} and beside it .md .csv .tex{pictures}")
    return "\n".join([*parts, *lines])
