"""Running a recorded run again, from its own configuration, and holding what comes out against what was written."""

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from omegaconf import OmegaConf
from scipy import stats

from karst_bench.config.compose import compose
from karst_bench.config.settings import Settings, resolve, run_title
from karst_bench.errors import UserError
from karst_bench.records import record as schema
from karst_bench.records.identity import LATER, deciding_facts
from karst_bench.records.provenance import collect
from karst_bench.records.record import RunRecord
from karst_bench.records.store import finished_in

# Keys of a place and an invocation, not of the run: whoever reproduces it has others.
OWN = ("paths", "tracker", "action", "adapter", "images", "out", "format", "force", "dry_run", "debug", "lease_s", "device",
       "threads", "save_adapter", "save_predictions", "diagnostics", "sweep", "experiment", "report")  # fmt: skip
ROOT = "dataset.root"  # of a set of one's own, which a record does not say
LIBRARIES = ("torch", "timm")
DRAWING = ("pillow", "numpy", "scikit_learn")  # which make the pictures of a drawn set, and once libfribidi too


@dataclass(frozen=True)
class Reproduced:
    """A record beside the run made after it. seeds: top-1 (%) of every recorded seed of the cell, its own among them; of a
    few-shot cell, whose repeats are its splits (Figure 2), those of every recorded split."""

    recorded: RunRecord
    here: RunRecord
    seeds: tuple[float, ...]

    @property
    def equal(self) -> bool:
        """Bit for bit: every accuracy, and the training loss of every epoch."""
        first, second = (replace(run.metrics, test_top1_peak_pct=run.test_peak_pct) for run in (self.recorded, self.here))
        return (first, self.recorded.curves) == (second, self.here.curves)

    @property
    def difference(self) -> float:
        """Here minus recorded, in points of top-1."""
        return self.here.metrics.accuracy()[1] - self.recorded.metrics.accuracy()[1]

    @property
    def reach(self) -> float | None:
        """How far from their mean a further seed lies with 95 %: t(k-1) s sqrt(1 + 1/k) of k recorded seeds; None below three."""
        k = len(self.seeds)
        return None if k < 3 else float(stats.t.ppf(0.975, k - 1)) * statistics.stdev(self.seeds) * math.sqrt(1 + 1 / k)

    @property
    def within_seeds(self) -> bool:
        """Whether the new accuracy could be that of another seed."""
        off = self.here.metrics.accuracy()[1] - statistics.fmean(self.seeds or (0.0,))
        return self.reach is not None and abs(off) <= self.reach

    @property
    def holds(self) -> bool:
        """Equal, or as close as another seed would be."""
        return self.equal or self.within_seeds

    @property
    def verdict(self) -> str:
        """What a reader may conclude, in a few words."""
        if self.equal:
            return "bit for bit"
        off = f"{self.difference:+.2f} points, from epoch {self._first_difference()} on"
        repeat = "split" if _few_shot(self.recorded) else "seed"
        if self.reach is None:
            return f"DIFFERS: {off}; fewer than three {repeat}s of this cell are recorded to judge by"
        mean, k = statistics.fmean(self.seeds), len(self.seeds)
        spread = f"a further {repeat} lies within {mean:.2f} ± {self.reach:.2f} (95 %, {k} {repeat}s)"
        return f"{f'within the {repeat}s' if self.within_seeds else 'DIFFERS'}: {off}; {spread}"

    @property
    def text(self) -> str:
        """The verdict, and what was not the same around the two runs."""
        (split, before), (_, now) = self.recorded.metrics.accuracy(), self.here.metrics.accuracy()
        title = run_title(self.recorded.config)
        lines = [f"{self.recorded.id}  {title}: {split} top-1 recorded {before:.2f} %, here {now:.2f} %: {self.verdict}"]
        lines += [f"    {line}" for line in _surroundings(self.recorded, self.here)]
        return "\n".join(lines)

    def _first_difference(self) -> int:
        first, second = self.recorded.curves, self.here.curves
        pairs = zip(first.train_loss, second.train_loss, strict=False)
        return next((epoch for epoch, (a, b) in enumerate(pairs, 1) if a != b), len(first.epoch))


def chosen_records(places: Sequence[Path], sample: int | None, seed: int) -> list[Path]:
    """The files of the records named: files, or whole folders; of them `sample` drawn by `seed`.

    Raises: UserError where a place holds none, or fewer than are to be drawn.
    """
    found: list[Path] = []
    for place in places:
        there = [path for path in sorted(place.glob("*.json")) if schema.ID.fullmatch(path.stem)] if place.is_dir() else [place]
        if not there or not there[0].is_file():
            raise UserError(f"{place}: no record there; give files <id>.json or a folder of them, results/reference/mini")
        found += there
    if sample is None:
        return found
    if sample > len(found):
        raise UserError(f"sample={sample}: there are {len(found)} records")
    return sorted(random.Random(seed).sample(found, sample))


def reproduce(path: Path, words: Sequence[str] = ()) -> Reproduced:
    """Trains what the record says, unless that was done before, and returns both. words: where things lie here, as for a run.

    Raises: UserError where the file is no record, this version cannot run its configuration, weights or lists are others here,
    or a word would make it another run.
    """
    from karst_bench.run.pipeline import run
    from karst_bench.run.prepare import prepare

    recorded = schema.load(path)
    settings = recorded_settings(recorded, words)
    prepared = prepare(settings)
    settings = in_recorded_mode(settings, recorded, prepared.device.type)
    for what, before, now in (("backbone weights", recorded.weights.sha256, prepared.weights_sha256),
                              ("split lists", recorded.data.list_sha256, prepared.task.list_sha256)):  # fmt: skip
        if before != now:
            raise UserError(f"{path.name}: its {what} were {str(before)[:12]}, here they are {str(now)[:12]}: another experiment"
                            + (_drawn_with(recorded) if what == "split lists" else ""))  # fmt: skip
    if (here := run(settings)) == recorded:
        raise UserError(f"{path.name}: paths.results={settings.paths.results} holds this very record; give an empty folder")
    return Reproduced(recorded, here, _seeds(recorded, path.parent))


def in_recorded_mode(settings: Settings, recorded: RunRecord, device: str) -> Settings:
    """With a GPU's run on a GPU, steps run as they did then: what speed=auto chose may have been for a whole sweep, and every mode
    rounds in its own way."""
    then = recorded.provenance.device, recorded.speed.mode
    if device != "cuda" or settings.speed != "auto" or then[0] in (None, "cpu") or then[1] is None:
        return settings
    return settings.replace(speed=then[1])


def check_places(words: Sequence[str]) -> None:
    """Raises: UserError for a word that is no key of a place."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key != ROOT and key.partition(".")[0] not in OWN:
            raise UserError(f"{word} would make it another run; what may be said here is {ROOT}=, {'=, '.join(OWN)}=")


def recorded_settings(recorded: RunRecord, words: Sequence[str] = ()) -> Settings:
    """The settings of a record for this machine: its configuration with paths, trackers and device of here.

    A run of a CPU is reproduced on one with as many threads, as they order its sums, where the words say nothing else.
    Keys that this version has no longer are left out where they decide nothing (records/identity.py).
    Raises: UserError where they do, and for a word that is no key of a place.
    """
    check_places(words)
    provenance = recorded.provenance
    on_cpu = provenance.device in (None, "cpu")
    said = [f"device={'cpu' if on_cpu else 'auto'}", "save_adapter=false", "paths.results=${paths.outputs}/reproduced"]
    said += [f"threads={provenance.threads}"] if on_cpu and provenance.threads else []
    roots = [word for word in words if word.startswith(f"{ROOT}=")]
    here = OmegaConf.to_container(compose([*said, *(word for word in words if word not in roots)]))
    assert isinstance(here, dict)
    merged = here | {key: value for key, value in recorded.config.items() if key in here and key not in OWN}
    merged["recipe"] = LATER["recipe"] | recorded.config.get("recipe", {})
    merged["dataset"] = recorded.config["dataset"] | dict(word.removeprefix("dataset.").split("=", 1) for word in roots)
    settings = resolve(OmegaConf.create(merged))
    if odd := _other_facts(recorded.config, settings.as_config()):
        commit = provenance.commit or "?"
        raise UserError(f"{recorded.id}: this version runs it with other {odd}; reproduce it with commit {commit}")
    return settings


def _drawn_with(recorded: RunRecord) -> str:
    """The libraries that drew a drawn set, where they are others here: fonts and rounding may differ with them."""
    if recorded.data.encoding != "generated":
        return ""
    before, now = recorded.provenance.packages, collect().packages
    others = [f"{name} {before.get(name)}, here {now.get(name)}" for name in DRAWING if before.get(name) != now.get(name)]
    return f". The set is drawn: recorded with {'; '.join(others)}" if others else ""


def _other_facts(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """The groups of a configuration that decide its numbers and are not the same in both."""
    first, second = deciding_facts(before), deciding_facts(now)
    return ", ".join(key for key in sorted(first | second) if first.get(key) != second.get(key))


def _few_shot(record: RunRecord) -> bool:
    return record.config["dataset"].get("shots") is not None


def _seeds(recorded: RunRecord, folder: Path) -> tuple[float, ...]:
    """The accuracies of all repeats of the record's cell that lie beside it."""
    cell = _cell(recorded)
    return tuple(other.metrics.accuracy()[1] for other in finished_in(folder) if _cell(other) == cell)


def _cell(record: RunRecord) -> tuple[Any, ...]:
    """What the repeats of a record share: all that decides its numbers but the seed, or the split and its lists."""
    facts = dict(deciding_facts(record.config))
    if _few_shot(record):
        facts["dataset"] = {key: value for key, value in facts["dataset"].items() if key != "split_seed"}
        lists = None
    else:
        del facts["seed"]
        lists = record.data.list_sha256
    packages = record.provenance.packages
    return facts, record.weights.sha256, lists, *(packages.get(name) for name in LIBRARIES)


def _surroundings(recorded: RunRecord, here: RunRecord) -> Iterator[str]:
    """What of machine, libraries and mode is not the same."""
    before, now = recorded.provenance, here.provenance
    pairs = [
        ("commit", before.commit and before.commit[:7], now.commit and now.commit[:7]),
        ("device", before.device, now.device),
        ("processor", before.cpu_model, now.cpu_model),
        ("instructions", before.cpu_capability, now.cpu_capability),
        ("threads", before.threads, now.threads),
        ("steps", recorded.speed.mode, here.speed.mode),
    ]
    pairs += [(name, before.packages.get(name), now.packages.get(name)) for name in LIBRARIES]
    yield from (f"{name}: recorded {was}, here {here}" for name, was, here in pairs if was != here)
