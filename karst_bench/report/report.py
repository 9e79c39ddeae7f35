"""From a results folder to results/report/<suite>/: the whole story of a report on one screen."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from karst_bench.errors import UserError
from karst_bench.report import catalog, figure_data, figures, formats, html, missing, paper, style, tables
from karst_bench.report.load import Run, load_runs
from karst_bench.report.missing import Gap
from karst_bench.report.statistics import aggregate, compare
from karst_bench.report.statistics import pages as pages
from karst_bench.report.statistics.aggregate import MethodResults
from karst_bench.report.table_model import Table

SUFFIXES = {"md": formats.to_markdown, "csv": formats.to_csv, "tex": formats.to_latex}


@dataclass(frozen=True)
class Report:
    """What was written, for the terminal: the tables, what is missing, what was left out, and where the files are."""

    suite: str
    folder: Path
    runs: int
    tables: list[Table]
    gaps: dict[str, list[Gap]]
    left_out: list[str]
    notes: list[str]


def write_report(suite: str, results: Path, paper_folder: Path | None = None, pictures: bool = True) -> Report:
    """Read results/runs/<suite> and the paper's CSVs, write every table and, with pictures, every figure.

    Raises: UserError for an unknown suite, missing paper numbers or a folder that cannot be written.
    """
    if suite not in catalog.SUITES:
        raise UserError(f"suite={suite}: unknown; use one of {', '.join(catalog.SUITES)}")
    runs, left_out = load_runs(results / "runs" / suite, suite)
    printed = paper.printed_tables(paper_folder or results / "paper")
    folder = results / "report" / suite
    make_folder(folder)
    vit, few, swin = rows_by_place(runs, suite)
    whole = figure_data.ablation_grid(vit, suite)
    report = Report(
        suite, folder, len(runs), report_tables(suite, (vit, swin, few), printed, whole),
        report_gaps(suite, (vit, swin, few), whole), left_out, run_notes(runs, suite, (vit, few, swin), printed),
    )  # fmt: skip
    for table in report.tables:
        for suffix, write in SUFFIXES.items():
            put(folder / f"{table.name}.{suffix}", write(table))
    if pictures:
        write_figures(folder, suite, vit, few, whole, printed["table1"] if suite == "vtab" else None)
    put(folder / "missing.md", missing.missing_page(report.gaps, suite))
    put(folder / "missing.csv", missing.missing_csv(report.gaps))
    put(folder / "left_out.txt", "".join(f"{line}\n" for line in left_out))
    put(folder / "index.html", html.html_page(report.suite, report.runs, report.tables, report.gaps, left_out, report.notes))
    return report


def rows_by_place(runs: Iterable[Run], suite: str) -> tuple[dict[str, list[MethodResults]], ...]:
    """Rows of the ViT tables, of the few-shot figure and of the Swin table; runs that chose on val200 are in none."""
    known = set(catalog.tasks(suite))
    sets = set(catalog.FEWSHOT[suite])
    tested = [run for run in runs if run.protocol != "val"]
    plain = [run for run in tested if run.task in known and run.group == catalog.group_of(suite, run.task)]
    vit = [run for run in plain if run.backbone == catalog.VIT[suite] and run.protocol != "best_val"]
    swin = [run for run in plain if run.backbone == catalog.SWIN[suite] and run.protocol != "best_val"]
    few = [run for run in tested if run.dataset in sets and run.shots in catalog.SHOTS]
    few = [run for run in few if run.backbone == catalog.VIT[suite]]
    return aggregate.method_results(vit), aggregate.method_results(few), aggregate.method_results(swin)


Places = tuple[dict[str, list[MethodResults]], dict[str, list[MethodResults]], dict[str, list[MethodResults]]]


def report_tables(suite: str, places: Places, printed: dict[str, pd.DataFrame], whole: figure_data.AblationGrid) -> list[Table]:
    """Tables I to III, the statistics pages, and the numbers of the figures."""
    vit, swin, few = places
    wrong = paper.misprints(printed)
    made = []
    for spec in tables.table_specs(suite):
        ours = swin if spec.backbone == catalog.SWIN[suite] else vit
        made.append(tables.side_by_side(spec, suite, ours, printed[spec.name] if suite == "vtab" else None, wrong))
    made += [pages.methods_table(vit, suite), pages.pairs_table(pages.method_pairs(vit, suite), suite)]
    made.append(figure_data.few_shot_table(figure_data.few_shot_curves(few, suite)))
    sweep = figure_data.kernel_sweep(whole)
    made.append(figure_data.grid_table("figure3", "Figure 3: accuracy and parameters over the kernels N", sweep))
    made.append(figure_data.grid_table("ablation", "Ablation of KARST over N, m and r", whole))
    return made


def report_gaps(suite: str, places: Places, whole: figure_data.AblationGrid) -> dict[str, list[Gap]]:
    """What each table and figure lacks."""
    vit, swin, few = places
    gaps = {
        spec.name: missing.table_gaps(suite, spec.backbone, spec.names, swin if "swin" in spec.backbone else vit)
        for spec in tables.table_specs(suite)
    }
    gaps["figure2"] = missing.few_shot_gaps(suite, catalog.VIT[suite], few)
    found = [point.kernels for point in figure_data.kernel_sweep(whole).points]
    gaps["figure3"] = missing.kernel_gaps(suite, catalog.VIT[suite], found)
    return gaps


def run_notes(runs: list[Run], suite: str, places: Places, printed: dict[str, pd.DataFrame]) -> list[str]:
    """Lines below everything: runs that no table shows, and how well the paper's means agree with its cells."""
    shown = {run.id for ours in places for settings in ours.values() for row in settings for run in row.runs}
    rest = [run for run in runs if run.id not in shown]
    notes = []
    if rest:
        chosen = sum(run.protocol == "val" for run in rest)
        notes.append(
            f"{len(rest)} valid runs are in no table: {chosen} of protocol val, {len(rest) - chosen} on other "
            "backbones or tasks, doubled seeds, or another version of the data than most seeds of their cell."
        )
    if suite == "vtab":
        largest = paper.largest_rounding(printed)
        wrong = ", ".join(f"{m.method} {m.printed:.1f} -> {m.recomputed:.2f}" for m in paper.misprints(printed))
        notes.append(
            f"Paper's means against its own cells: largest rounding {largest:.2f}; misprints (> 0.15): {wrong}."
        )
    return notes


def write_figures(
    folder: Path,
    suite: str,
    vit: dict[str, list[MethodResults]],
    few: dict[str, list[MethodResults]],
    whole: figure_data.AblationGrid,
    printed: pd.DataFrame | None,
) -> None:
    """All pictures as SVG, PDF and PNG."""
    points = [(point.params_m, point.accuracy.value) for point in whole.points]
    front = compare.pareto_front(points)
    panels = figure_data.method_costs(vit, suite, {} if printed is None else printed_costs(printed))
    fronts = {title: figure_data.cost_front(costs) for title, costs in panels.items()}
    found = pages.rank_methods(vit, suite)
    with mpl.rc_context(style.RC):
        style.save_figure(figures.draw_few_shot(figure_data.few_shot_curves(few, suite)), folder, "figure2")
        style.save_figure(figures.draw_kernel_sweep(figure_data.kernel_sweep(whole)), folder, "figure3")
        style.save_figure(figures.draw_ablation(whole, front, compare.knee(points, front)), folder, "ablation")
        style.save_figure(figures.draw_pareto(panels, fronts), folder, "pareto")
        style.save_figure(figures.draw_ranks(found, compare.cliques(found) if found else []), folder, "ranks")


def printed_costs(frame: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Printed method -> (parameters in millions, group average from the cells), where the paper prints a size."""
    again = paper.recomputed_means(frame)["group_avg"].to_dict()
    sizes = frame["params_m"].dropna().to_dict()
    return {str(name): (float(size), float(again[name])) for name, size in sizes.items()}


def make_folder(folder: Path) -> None:
    """The report folder, or one line that says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {folder} ({error.strerror}); name a writable folder with results=DIR"
        ) from error


def put(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error.strerror}); free space or name another results=DIR") from error
