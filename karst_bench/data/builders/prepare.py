"""Preparing sets: one function behind the command line, and what it says of each set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karst_bench.data.builders.fgvc import build_fgvc
from karst_bench.data.builders.from_raw import build_raw
from karst_bench.data.builders.from_zip import TaskZip, build_zip, find_zip
from karst_bench.data.builders.options import check_options
from karst_bench.data.builders.prepare_tfds import build_tfds
from karst_bench.data.builders.publish import audited
from karst_bench.data.builders.staging import OccupiedError, check_free
from karst_bench.data.builders.to_parquet import write_parquet
from karst_bench.data.setup.audit import Finding
from karst_bench.data.sources.layouts import find_lists
from karst_bench.data.sources.manifest import Manifest, UsedArchive, read_manifest
from karst_bench.errors import UserError

DatasetConfig = Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """One set after `prepare`. state: built | present | failed; home: its folder; text: what to say about it."""

    option: str
    state: str
    home: Path | None
    text: str

    @property
    def ready(self) -> bool:
        """Whether a run can use it."""
        return self.state != "failed"


def prepare_data(
    tasks: Mapping[str, DatasetConfig],
    source: str,
    root: Path | str,
    encoding: str = "png",
    archive: Path | str | None = None,
    *,
    to: str | None = None,
    lists: Path | str | None = None,
    verify: bool = True,
) -> list[Prepared]:
    """Bring sets into place under `root` (paths.data); what is there is left alone, what was broken off is gone on with.

    tasks: {option: configuration} of vtab/* and fgvc/* sets. source: raw (original archives), zip (the folders that other
    repositories distribute), tfds (tensorflow-datasets, which needs TensorFlow). archive: a file or folder at hand
    instead of a download; for zip also an address, or hub | drive. encoding: png | jpeg75, of raw. lists: of fgvc, a
    folder or zip of VPT's JSON lists. to=hf: write each set as parquet files too. verify=False: build from files that
    differ from the published ones, and say so in every record.
    A set that cannot be prepared does not stop the others. Raises: UserError for options that do not go together.
    """
    check_options({dataset["suite"] for dataset in tasks.values()}, source, encoding, archive, to, lists)
    place = Path(root)
    makers = _Makers(place, source, encoding, archive, None if lists is None else Path(lists), verify)
    found = []
    for option, dataset in tasks.items():
        try:
            result = _one(dataset, makers)
            if to == "hf" and result.home is not None:
                target = write_parquet(dataset, result.home, place)
                result = Prepared(option, result.state, result.home, f"{result.text}; parquet files in {target}")
        except UserError as error:
            result = Prepared(option, "failed", None, str(error))
        found.append(result)
    return found


@dataclass
class _Makers:
    """The options of one call, and the zip once it was looked at."""

    root: Path
    source: str
    encoding: str
    archive: Path | str | None
    lists: Path | None
    verify: bool
    _zip: TaskZip | None = None
    _no_zip: str = ""

    def make(self, dataset: DatasetConfig, home: Path) -> None:
        """Build the folder of one set."""
        given = None if self.archive is None else Path(self.archive)
        if dataset["suite"] == "fgvc":
            build_fgvc(dataset, home, root=self.root, archive=given, lists=self.lists, verify=self.verify)
        elif self.source == "zip":
            build_zip(dataset, home, *self._opened())
        else:
            build_raw(dataset, home, root=self.root, encoding=self.encoding, archive=given, verify=self.verify)

    def _opened(self) -> tuple[TaskZip, tuple[UsedArchive, ...]]:
        """The zip and its line of the manifest; what it cannot give once it is not asked for again (it may be a download)."""
        if self._no_zip:
            raise UserError(self._no_zip)
        if self._zip is None:
            try:
                self._zip = TaskZip(find_zip(self.archive, self.root))
                self._used = self._zip.use()
            except UserError:
                self._no_zip = "not without the zip (the first of these lines says what is wrong with it)"
                raise
        return self._zip, self._used


def _one(dataset: DatasetConfig, makers: _Makers) -> Prepared:
    if makers.source == "tfds":
        return Prepared(dataset["name"], "built", None, build_tfds(dataset, makers.root))
    present = _present(dataset, makers.root)
    if present is not None:
        return _kept(dataset, present, makers)
    home = makers.root / ("fgvc" if dataset["suite"] == "fgvc" else "vtab-1k") / dataset["folder"]
    check_free(home)  # before anything is fetched for it
    try:
        makers.make(dataset, home)
    except OccupiedError:
        present = _present(dataset, makers.root)
        if present is None:
            raise
        return _kept(dataset, present, makers)  # another process was quicker
    manifest = read_manifest(home)
    assert manifest is not None
    return Prepared(dataset["name"], "built", home, f"built in {home}: {_facts(manifest)}")


def _present(dataset: DatasetConfig, root: Path) -> Path | None:
    try:
        return find_lists(dataset, data_root=root)
    except UserError:
        return None


def _kept(dataset: DatasetConfig, home: Path, makers: _Makers) -> Prepared:
    """A set that is there is not built again: said what it is, audited if it is not one of ours."""
    manifest = read_manifest(home)
    if manifest is None:
        finding = audited(dataset, home)
        state = "present" if finding.sound else "failed"
        return Prepared(dataset["name"], state, home, f"in {home} already, not built here: {_found(finding)}")
    if makers.source == "raw" and dataset["suite"] == "vtab" and manifest.encoding != makers.encoding:
        raise UserError(
            f"{home} holds it as {manifest.encoding}, and encoding={makers.encoding} is asked for; move that folder away or"
            " choose another root"
        )
    return Prepared(dataset["name"], "present", home, f"in {home} already: {_facts(manifest)}")


def _facts(manifest: Manifest) -> str:
    own = f", own split ({manifest.own_split})" if manifest.own_split else ""
    images = sum(count for name, count in manifest.splits.items() if name != "train800val200")
    return f"{images} images, {manifest.encoding}, from {manifest.source}, lists {manifest.lists_sha256[:12]}{own}"


def _found(finding: Finding) -> str:
    wrong = [*finding.unreadable[:3], *finding.out_of_range[:3], *finding.overlap[:3]]
    return f"{finding.files} images, {finding.encoding}" + (f", not usable: {'; '.join(wrong)}" if wrong else ", sound")
