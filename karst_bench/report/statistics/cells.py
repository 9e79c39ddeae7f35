"""Which runs are seeds of one cell: by what names it, by case, one run a seed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from karst_bench.report.experiment import Facts
from karst_bench.report.load import Run


@dataclass(frozen=True)
class Conflict:
    """Runs of one seed of one cell that disagree, or of several that trained alike to the last bit: none of them counts."""

    cell: str
    runs: tuple[Run, ...]

    @property
    def line(self) -> str:
        """Which runs say what."""
        first = self.runs[0]
        if self.copied:
            named = " and ".join(f"seed {run.seed} ({run.origin}/{run.id}, {run.created})" for run in self.runs)
            return f"conflict: {first.method} on {self.cell}: {named} have the same curves to the last bit; none of them counts"
        said = " against ".join(f"{run.last:.2f} ({run.origin}/{run.id}, {run.created})" for run in self.runs)
        return f"conflict: {first.method} on {self.cell}, seed {first.seed}: {said}; none of them counts"


    @property
    def copied(self) -> bool:
        """Whether it is between seeds."""
        return len({run.repeat for run in self.runs}) > 1


def on_val(run: Run) -> Run:
    """A run that never saw the test set, by its val accuracy: for tables of val alone."""
    return replace(run, last=run.val, peak=None, test_images=run.val_images)


def runs_by_cell(runs: Iterable[Run], full_names: bool = False) -> dict[str, list[Run]]:
    """Runs by what names a cell: the task (or the dataset), and the shots of a few-shot set (`pets@4`)."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        name = run.dataset if full_names else run.task
        found.setdefault(name if run.shots is None else f"{name}@{run.shots}", []).append(run)
    return found


def one_run_per_seed(cell: str, runs: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[Conflict, ...]]:
    """The runs that count, in the order of their seeds, and the seeds whose runs disagree.

    Protocols last and peek10 train alike and print the same last epoch, and a record may lie in two folders: then the run
    that measured the peak counts, else the older one.
    """
    seeds: dict[tuple[int, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.peak is None, run.created, run.id, run.origin != "reference")):
        seeds.setdefault((run.split_seed or 0, run.seed), []).append(run)
    agreeing = {seed: found for seed, found in sorted(seeds.items()) if len({round(run.last or 0.0, 4) for run in found}) == 1}
    conflicts = [Conflict(cell, tuple(found)) for seed, found in sorted(seeds.items()) if seed not in agreeing]
    alike: dict[object, list[Run]] = {}
    for (run, *_) in agreeing.values():
        alike.setdefault(_trained_as(run), []).append(run)
    conflicts += [Conflict(cell, tuple(found)) for found in alike.values() if len(found) > 1]
    copied = {run.repeat for conflict in conflicts for run in conflict.runs}
    return tuple(found[0] for found in agreeing.values() if found[0].repeat not in copied), tuple(conflicts)


def _trained_as(run: Run) -> object:
    """What two seeds cannot share: every epoch's training loss, as floating point. A run that says none is like no other."""
    losses = run.record.curves.train_loss if run.record is not None else ()
    return losses or run.repeat


SPLIT = ("list", "pixels")  # facts of a case that another split seed changes by itself


def cases_of(runs: Iterable[Run]) -> dict[Facts, list[Run]]:
    """The runs of a cell by case. Split seeds are repeats, though each has a list of its own; two lists of one split seed are two
    cases. A GPU's runs say no threads and stand with those of a CPU, of which the most frequent."""
    cases: dict[Facts, list[Run]] = {}
    for run in runs:
        cases.setdefault(_without(run.case, SPLIT) if run.split_seed is not None else run.case, []).append(run)
    for case, members in list(cases.items()):
        usual: dict[int | None, Counter[Facts]] = {}
        for run in members:
            usual.setdefault(run.split_seed, Counter())[run.case] += 1
        first = {seed: max(count, key=lambda facts: (count[facts], facts)) for seed, count in usual.items()}
        cases[case] = [run for run in members if run.case == first[run.split_seed]]
        for run in (run for run in members if run.case != first[run.split_seed]):
            cases.setdefault(run.case, []).append(run)
    for case in list(cases):
        like = [other for other in cases if other != case and _without(other, ("threads",)) == case]
        if like:
            cases[max(like, key=lambda other: (len(cases[other]), other))] += cases.pop(case)
    return cases


def _without(case: Facts, keys: Sequence[str]) -> Facts:
    return tuple(fact for fact in case if fact[0] not in keys)


def case_marks(first: Mapping[str, Facts], layer: Mapping[str, Facts]) -> Facts:
    """What the cases of a further row have otherwise than those of the first."""
    found: dict[str, set[str]] = {}
    for name, case in layer.items():
        usual = dict(first[name])
        for key, value in case:
            if usual.get(key) != value:
                found.setdefault(key, set()).add(value)
    return tuple((f"case.{key}", "/".join(sorted(values))) for key, values in sorted(found.items()))
