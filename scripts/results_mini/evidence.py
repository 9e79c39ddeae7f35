"""What docs/results-mini.md is written from, and how its numbers look."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from karst_bench.report.load import Run, load_folders
from karst_bench.report.report import PlacedRuns, place_runs
from karst_bench.report.statistics import aggregate
from karst_bench.report.statistics.aggregate import MethodResults, ResultsByMethod
from karst_bench.report.statistics.intervals import Estimate
from karst_bench.report.suite import MAIN, Suite, load_suite

HERO = "karst"
KINDS = {
    "ours": "a learning rate searched on val200 (`tuned=ours`)",
    "none": "each method's own defaults (`tuned=none`)",
}


@dataclass(frozen=True)
class Evidence:
    """All that the page is written from."""

    suite: Suite
    runs: Sequence[Run]
    placed: PlacedRuns

    @property
    def main(self) -> ResultsByMethod:
        """Table I's results."""
        return self.placed.tables[MAIN]

    def rows(self, kind: str) -> list[MethodResults]:
        """The rows of Table I with every task and one kind of tuning that deviate in nothing; the best first."""
        found = []
        for settings in self.main.values():
            usual = [row for row in settings if row.tuned == kind and row.tasks and not (row.layer or row.deviations)]
            found += [row for row in usual if set(self.suite.task_names) <= set(row.tasks)][:1]
        return sorted(found, key=lambda row: -mean_of(row, self.suite).value)


def evidence(folder: Path) -> Evidence:
    """Reads the records of a folder, as the report does."""
    suite = load_suite("mini")
    runs, _ = load_folders({"reference": folder}, "mini")
    return Evidence(suite, runs, place_runs(runs, suite))


def mean_of(row: MethodResults, suite: Suite) -> Estimate:
    """Set Avg., the mean over the tasks."""
    found = aggregate.mean_over(row, suite.task_names, suite.task_weights)
    assert found is not None
    return found


def shown(estimate: Estimate | None, digits: int = 1) -> str:
    """52.1 ± 1.3 (3): mean, half of the 95 % interval, number of seeds."""
    if estimate is None:
        return "—"
    half = "" if estimate.half is None else f" ± {estimate.half:.{digits}f}"
    return f"{estimate.value:.{digits}f}{half} ({estimate.n})"


def grid(heads: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are texts."""
    align = ["left"] * left + ["right"] * (len(heads) - left)
    return tabulate(lines, headers=list(heads), tablefmt="pipe", colalign=align, disable_numparse=True)


def listed(names: Iterable[str]) -> str:
    """`a`, `b` and `c`; "none" for nothing."""
    ticked = [f"`{name}`" for name in names]
    return " and ".join([", ".join(ticked[:-1]), ticked[-1]]) if len(ticked) > 1 else "".join(ticked) or "none"


def p_text(value: float | None) -> str:
    """A p value in three digits; a dash where the seeds allow no test."""
    return "—" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
