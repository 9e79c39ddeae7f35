"""What a sweep would run: its cells, which are done, running, failed or missing, and how long the rest will take."""

import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karst_bench.config.sweeps import axes, expand, jobs
from karst_bench.config.swept_options import check_swept_options
from karst_bench.config.words import key_of
from karst_bench.errors import UserError
from karst_bench.records.identity import INPUT, cell_key
from karst_bench.records.lease import Leases
from karst_bench.records.record import RunRecord
from karst_bench.records.store import Store, finished_in
from karst_bench.report.sources import record_folders
from karst_bench.run.logs import job_logs, log_path
from karst_bench.run.makespan import longest_first, makespan
from karst_bench.run.sweep_configs import sweep_configs

STATES = ("done", "running", "failed", "missing")
REPEATS = ("seed", "dataset.split_seed")  # axes whose values are counted inside one box of the matrix
LOGS = 20  # lines on where logs lie


@dataclass(frozen=True)
class SweepCell:
    """One run of a sweep. `seconds` is what it took, or will take by past runs; None where nothing is known. run_id: of one that
    is running or failed."""

    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    state: str
    seconds: float | None
    record: RunRecord | None
    run_id: str | None = None

    @property
    def value(self) -> float | None:
        """The accuracy of a finished cell in percent, test before val."""
        return None if self.record is None else self.record.metrics.accuracy()[1]


def sweep_cells(overrides: Sequence[str], records: str = "own") -> list[SweepCell]:
    """The cells of `run.py <overrides>`, in the order they would run; reads records, never data or weights. records: own, as a
    run would find them, or reference too, as a report does.

    Raises: UserError as composing the cells does.
    """
    expanded = expand(overrides)
    swept = axes(expanded)
    try:
        planned = list(zip(jobs(expanded), sweep_configs(jobs(expanded), swept), strict=True))
    except UserError:
        check_swept_options(expanded)  # names every option that does not compose; one that does is composed above already
        raise
    places = {(str(config["paths"]["results"]), str(config["suite"])) for _, config in planned}
    known = {place: _Known(Path(place[0]), place[1], records) for place in places}
    return [_cell(job, config, known[config["paths"]["results"], config["suite"]]) for job, config in planned]


class _Known:
    """What a results folder knows of one suite's cells."""

    def __init__(self, results: Path, suite: str, records: str) -> None:
        store = Store(results, suite)
        self.done: dict[str, list[RunRecord]] = defaultdict(list)
        for folder in record_folders(results, suite, records).values():
            for record in finished_in(folder):
                self.done[cell_key(record.config)].append(record)
        self.failed = {cell_key(run.config): run.id for run in store.failed()}
        self.running = {key: run_id for run_id, key in Leases(results).running().items()}
        self.rates = _rates(record for records in self.done.values() for record in records)


def _cell(job: Sequence[str], config: Mapping[str, Any], known: _Known) -> SweepCell:
    key = cell_key(config)
    record = next((r for r in known.done.get(key, ()) if _same_input(config, r.config)), None)
    if record is not None:
        return SweepCell(tuple(job), config, "done", record.seconds.total_s, record)
    state = "running" if key in known.running else "failed" if key in known.failed else "missing"
    run_id = known.running.get(key) or known.failed.get(key)
    return SweepCell(tuple(job), config, state, _estimate(config, known.rates), None, run_id)


def _same_input(planned: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """A record says the input size and statistics that a plan may leave to the backbone."""
    wished = {key: planned["backbone"].get(key) for key in INPUT}
    return all(value is None or value == recorded["backbone"].get(key) for key, value in wished.items())


# Time ------------------------------------------------------------------------------------------------------------


def _kinds(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """From the most to the least alike: runs that may tell how long this one takes."""
    method, backbone, dataset = (str(config[node]["name"]) for node in ("method", "backbone", "dataset"))
    return [(method, backbone, dataset), (method, backbone), (backbone,)]


def _rates(records: Iterator[RunRecord]) -> dict[tuple[str, ...], float]:
    """Median seconds per epoch of past runs, by kind."""
    seen = defaultdict(list)
    for record in records:
        total_s, epochs = record.seconds.total_s, record.config.get("recipe", {}).get("epochs")
        if total_s and epochs:
            for kind in _kinds(record.config):
                seen[kind].append(total_s / epochs)
    return {kind: statistics.median(rates) for kind, rates in seen.items()}


def _estimate(config: Mapping[str, Any], rates: Mapping[tuple[str, ...], float]) -> float | None:
    rate = next((rates[kind] for kind in _kinds(config) if kind in rates), None)
    return None if rate is None else rate * config["recipe"]["epochs"]


# Text ------------------------------------------------------------------------------------------------------------


def listing(planned: Sequence[SweepCell], workers: int = 1) -> str:
    """One line per cell: state, accuracy, time, overrides; then the totals, how long the rest takes on so many workers, and what
    `tuned` left open."""
    lines = []
    for cell in planned:
        value = "" if cell.value is None else f"{cell.value:.1f} %"
        lines.append(f"{cell.state:8}{value:>8}{_clock(cell.seconds):>9}  {shlex.join(cell.overrides)}")
    said = dict.fromkeys(line for cell in planned for line in cell.config["tuned"].get("said", ()))
    return "\n".join([*lines, "", totals(planned), *_on_workers(planned, workers), *said])


def expected_s(planned: Sequence[SweepCell]) -> list[float] | None:
    """How long each cell will take, one of which nothing is known as long as the others on average; None where all are such."""
    known = [cell.seconds for cell in planned if cell.seconds is not None]
    if not known:
        return None
    return [statistics.mean(known) if cell.seconds is None else cell.seconds for cell in planned]


def _on_workers(planned: Sequence[SweepCell], workers: int) -> list[str]:
    """The makespan, longest runs first as a launcher gives them out, and in this order, as workers that share a sweep take it."""
    lengths = expected_s([cell for cell in planned if cell.state != "done"])
    if workers == 1 or not lengths:
        return []
    best, plain = makespan(longest_first(lengths), workers), makespan(lengths, workers)
    least = max(max(lengths), sum(lengths) / workers)
    return [f"On {workers} workers: about {_clock(best)}, the longest runs first; {_clock(plain)} in this order; no order takes "
            f"less than {_clock(least)}, and the longest run alone takes {_clock(max(lengths))}"]  # fmt: skip


def totals(planned: Sequence[SweepCell]) -> str:
    """How many cells are in which state, and the time left on one worker."""
    counts = {state: sum(cell.state == state for cell in planned) for state in STATES}
    left = [cell for cell in planned if cell.state != "done"]
    known = [cell.seconds for cell in left if cell.seconds is not None]
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state in ("done", "missing"))
    if not left:
        return f"{len(planned)} cells: {said}"
    if not known:
        return f"{len(planned)} cells: {said}; time left unknown, as no like run is on record"
    total_s = statistics.mean(known) * len(left)
    hours = f"{total_s / 3600:.1f} h of one worker (GPU-hours where it has a GPU)"
    return f"{len(planned)} cells: {said}; about {hours} left, by the median of past runs"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def matrix(overrides: Sequence[str], planned: Sequence[SweepCell]) -> str:
    """Rows (methods, ...) x datasets: done of all repeats, marked r (running) and f (failed); then gap commands."""
    given_of = [{key: value for key, _, value in (o.partition("=") for o in cell.overrides)} for cell in planned]
    row_keys = [
        key for key in given_of[0] if key not in ("dataset", *REPEATS) and len({given[key] for given in given_of}) > 1
    ]
    boxes: dict[tuple[str, ...], dict[str, list[SweepCell]]] = defaultdict(lambda: defaultdict(list))
    for cell, given in zip(planned, given_of, strict=True):
        row = tuple(f"{key}={given[key]}" for key in row_keys) or (f"method={cell.config['method']['name']}",)
        boxes[row][str(cell.config["dataset"]["name"])].append(cell)
    columns = list(dict.fromkeys(str(cell.config["dataset"]["name"]) for cell in planned))
    width = max(len(" ".join(row)) for row in boxes)
    names = [column.split("/")[-1][:11] for column in columns]
    lines = [" " * width + "".join(f"{name:>12}" for name in names)]
    lines += [f"{' '.join(row):{width}}" + "".join(f"{_box(found[c]):>12}" for c in columns) for row, found in boxes.items()]
    gaps = [gap for row, found in boxes.items() if (gap := _gap(overrides, row, found, len(columns)))]
    logs = _logs(planned)
    return "\n".join([*lines, "", totals(planned), *logs, *(["", "Fill the gaps:", *gaps] if gaps else [])])


def _logs(planned: Sequence[SweepCell]) -> list[str]:
    """Where the logs of what is running and what failed lie, and those of a cluster's jobs."""
    told = [cell for cell in planned if cell.state in ("running", "failed") and cell.run_id is not None]
    places = {cell.run_id: log_path(Path(cell.config["paths"]["results"]), cell.config["suite"], str(cell.run_id)) for cell in told}
    shared = set(planned[0].overrides).intersection(*(cell.overrides for cell in planned)) if len(planned) > 1 else set()
    lines = [f"  {cell.state:8}{places[cell.run_id]}  {' '.join(word for word in cell.overrides if word not in shared)}"
             for cell in told[:LOGS]]  # fmt: skip
    lines += [f"  and {len(told) - LOGS} more in the same folders"] if len(told) > LOGS else []
    folders = {job_logs(Path(cell.config["paths"]["results"])) for cell in planned}
    lines += [f"  jobs    {folder}" for folder in sorted(folders) if folder.is_dir()]
    return ["", "Logs:", *lines] if lines else []


def _box(found: Sequence[SweepCell]) -> str:
    marks = "".join(
        f" {sum(c.state == s for c in found)}{s[0]}" for s in ("running", "failed") if any(c.state == s for c in found)
    )
    return f"{sum(cell.state == 'done' for cell in found)}/{len(found)}{marks}" if found else "-"


def _gap(overrides: Sequence[str], row: Sequence[str], found: Mapping[str, Sequence[SweepCell]], columns: int) -> str:
    """The command that fills what a row lacks, as a shell reads it; the rest of the sweep's words stay as they were."""
    open_datasets = [name for name, box in found.items() if any(c.state in ("missing", "failed") for c in box)]
    if not open_datasets:
        return ""
    narrowed = [f"dataset={','.join(open_datasets)}"] if len(open_datasets) < columns else []
    mine = {key_of(word) for word in (*row, *narrowed)}
    words = [word for word in overrides if key_of(word) not in mine]
    return f"  karst-bench run -m {shlex.join([*words, *row, *narrowed])}"
