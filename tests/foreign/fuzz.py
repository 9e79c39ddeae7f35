"""python tests/foreign/fuzz.py [seed=1] [count=60] [kind=words of a kind's name]: files of strangers, bent at random.

Of each kind: its whole files, hostile ones (pickles with code, bombs), and `count` bent ones (of pictures four times as many),
read in a process of its own.
Printed: how many were read, made anew and refused with a sentence, the memory that the process grew by at most, the longest
time, and every defect: another exception, code that ran, a model or result that changed although its file was refused, a
process that ended. Exit code 1 where there is one; the file lies in the folder that is named then.
"""

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import given
import kept
from kinds import ANEW, READ, Kind, planted, put
from tabulate import tabulate

from karst_bench.errors import UserError

ROOM = 4 << 30  # bytes of addresses that a process may take besides what it has
LONGEST_S = 1200  # for all files of a kind
KINDS: dict[str, Callable[[Path], Kind]] = {
    "adapters": given.adapters, "peft folders": given.peft_folders, "weights, safetensors": given.weights,
    "weights, pickles": given.pickled_weights, "weights, npz": given.npz_weights, "sums of weights": given.sums,
    "pictures": given.pictures, "checkpoints": kept.checkpoints, "resumed runs": kept.resumed_runs,
    "pixel caches": kept.pixel_caches, "notes on runs": kept.notes_on_runs, "records": kept.records,
    "leases": kept.leases,
    "tuned tables": kept.tuned_tables, "Optuna storages": kept.studies,
}  # fmt: skip


class TooLongError(BaseException):
    """Reading took longer than LONGEST_S; no Exception, so that nothing takes it for one of the file's."""


@dataclass
class Outcome:
    """Of all files of a kind. grown_mb: the most memory that the process had besides what it had before the first."""

    counts: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    grown_mb: float = 0.0
    longest_s: float = 0.0

    @property
    def files(self) -> int:
        return sum(self.counts.values())


def offered(kind: Kind, count: int, rng: random.Random, *, heavy: bool) -> Iterator[bytes]:
    """The whole files, the hostile ones, bent ones."""
    yield from kind.files
    yield from kind.hostile
    yield from kind.heavy() if heavy else ()
    for _ in range(count):
        yield rng.choice(kind.bends)(rng.choice(kind.files), rng)


def read_all(name: str, count: int, seed: object, folder: Path, *, heavy: bool = True) -> Outcome:
    """Reads them in this process."""
    kind, outcome = KINDS[name](folder), Outcome()
    before = _forget_peak()
    for number, data in enumerate(offered(kind, count, random.Random(f"{seed}/{name}"), heavy=heavy)):
        started = time.monotonic()
        said, defect = _read(kind, data)
        outcome.longest_s = max(outcome.longest_s, time.monotonic() - started)
        if number < len(kind.files) and said != READ:
            defect = defect or f"a whole file was {said}"
        if planted(folder).exists():
            planted(folder).unlink()
            defect = "code ran"
        if defect:
            put(folder / "defects" / str(number), data)
            outcome.defects.append(f"{name}, file {number}: {defect}")
        outcome.counts[said] += 1
    outcome.grown_mb = max(0.0, _status_mb("VmHWM") - before)
    return outcome


def _read(kind: Kind, data: bytes) -> tuple[str, str]:
    """(what became of it, the defect or nothing)."""
    try:
        return kind.read(data), ""
    except UserError as error:
        return "refused", "" if str(error) else "refused without a word"
    except (Exception, TooLongError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "raised", f"{type(error).__name__}: {str(error)[:150]} ({Path(where.filename).name}:{where.lineno})"


def _status_mb(key: str) -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024


def _forget_peak() -> float:
    """The memory of this process in MiB; from now on the peak counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def apart(name: str, count: int, seed: object, folder: Path) -> Outcome:
    """As read_all, in a forked process with bounded memory; one that dies is a defect."""
    report = folder / "outcome.json"
    folder.mkdir(parents=True)
    child = os.fork()
    if not child:
        try:
            put(report, json.dumps(vars(_bounded(name, count, seed, folder))).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not report.exists():
        return Outcome(Counter({"ended the process": 1}), [f"{name}: the process ended with {code}, see {folder / 'said'}"])
    found = json.loads(report.read_text())
    return Outcome(Counter(found.pop("counts")), **found)


def _bounded(name: str, count: int, seed: object, folder: Path) -> Outcome:
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    limit = int(_status_mb("VmSize") * 2**20) + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    return read_all(name, count, seed, folder)


def _too_long(*_: object) -> None:
    raise TooLongError


def table(outcomes: dict[str, Outcome]) -> str:
    """One line a kind, in Markdown."""
    rows = [[name, o.files, o.counts[READ], o.counts[ANEW], o.counts["refused"], len(o.defects)] for name, o in outcomes.items()]
    rows.append(["all", *(sum(int(row[at]) for row in rows) for at in range(1, 6))])
    most = [(o.grown_mb, o.longest_s) for o in outcomes.values()]
    most.append((max(mb for mb, _ in most), max(s for _, s in most)))
    heads = ["kind", "files", READ, ANEW, "refused", "defects", "MiB at most", "s at most"]
    lines = [[*row, f"{mb:.0f}", f"{s:.1f}"] for row, (mb, s) in zip(rows, most, strict=True)]
    return tabulate(lines, heads, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * 7))


def main(words: Sequence[str]) -> int:
    """The exit code; see above."""
    options = {"seed": "1", "count": "60", "kind": ""} | dict(word.split("=", 1) for word in words)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    outcomes: dict[str, Outcome] = {}
    for name in KINDS:
        if options["kind"] in name:
            count = int(options["count"]) * (4 if name == "pictures" else 1)
            outcomes[name] = apart(name, count, options["seed"], folder / name)
            print(f"{name}: {dict(outcomes[name].counts)}", file=sys.stderr, flush=True)
    print(table(outcomes))
    defects = [defect for outcome in outcomes.values() for defect in outcome.defects]
    print("\n".join([f"{len(defects)} defects", *defects[:60], *([f"their files lie in {folder}/*/defects"] if defects else [])]))
    return int(bool(defects))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
