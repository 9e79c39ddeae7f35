"""Where a report reads: folders of records by origin, and numbers of others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from karst_bench import files
from karst_bench.config.sweep_files import SUITES
from karst_bench.errors import UserError, nearest
from karst_bench.report.experiment import known_options
from karst_bench.report.load import Run, load_folders
from karst_bench.report.suite import Suite, load_suite

VTAB = "vtab"  # the folder of all runs that are not of the embedded suite
ORIGINS = {"reference": "reference", "own": "runs", "imported": "imported"}  # origin -> folder below paths.results


def suite_runs(folders: Mapping[str, Path], suite: str) -> tuple[Suite, list[Run], list[str]]:
    """A suite, its runs, and a line for each file left out. A suite that conf/ has not is that of datasets which say so
    (dataset.suite=photos): it has no sweeps, its runs lie with vtab's.

    Raises: UserError for a suite that is neither conf/'s nor of any run.
    """
    if suite in SUITES:
        runs, left_out = load_folders(folders, suite)
        return load_suite(suite), runs, left_out
    runs, left_out = load_folders(folders, VTAB)
    if own := [run for run in runs if run.suite == suite]:
        return Suite(suite, (), (), {}), own, left_out
    known = [*SUITES, *sorted({run.suite for run in runs} - {*SUITES, "fewshot", "fgvc"})]
    raise UserError(f"suite={suite}: unknown; use one of {', '.join(known)}{nearest(suite, known)}")


def check_named(tasks: Sequence[str], runs: Sequence[Run]) -> None:
    """Raises: UserError for a dataset that neither conf/ nor any run has."""
    known = sorted({*known_options("dataset"), *(run.dataset for run in runs)})
    if odd := [name for name in tasks if name not in known]:
        raise UserError(f"tasks={odd[0]}: no dataset, and no run of one, has this name{nearest(odd[0], known)}; "
                        f"use {', '.join(known)}")  # fmt: skip


def stored_suite(suite: str) -> str:
    """The folder that a suite's runs lie in."""
    return suite if suite in SUITES else VTAB


def record_folders(results: Path, suite: str, records: str) -> dict[str, Path]:
    """Origin -> folder of the records of a suite below a results folder; the reference of the repository where the results folder
    has none. Raises: UserError for an origin that is none."""
    suite = stored_suite(suite)
    names = records.split(",")
    if odd := [name for name in names if name not in ORIGINS]:
        raise UserError(f"records={odd[0]} is none of {', '.join(ORIGINS)}{nearest(odd[0], list(ORIGINS))}")
    found = {name: results / ORIGINS[name] / suite for name in names}
    shipped = files.packaged("results") / "reference" / suite
    if "reference" in found and not found["reference"].is_dir() and shipped.is_dir():
        found["reference"] = shipped
    return found


def published_folders(results: Path) -> list[Path]:
    """Where numbers of others lie: with the package, and below the results folder if that is another place."""
    places = (files.packaged("results/published"), results / "published")
    return list({place.resolve(): place for place in places if place.is_dir()}.values())


def source_lines(folders: Mapping[str, Path], runs: Sequence[Run]) -> list[str]:
    """A line for each folder: how many runs came from it."""
    found = Counter(run.origin for run in runs)
    return [f"Read: {found[origin]} of {origin}, {'/'.join(folder.parts[-2:])}" for origin, folder in folders.items()]
