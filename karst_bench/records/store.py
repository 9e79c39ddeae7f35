"""The results folder: one write-once JSON per finished run, failures apart, adapters and checkpoints beside.

runs/<suite>/<id>.json            finished runs; only `force` ever replaces one, by a finished one, in one step
failed/<suite>/<id>.json          the last failure of a cell, with traceback and the count of attempts
superseded/<suite>/<id>.<n>.json  what `force` (or a later success) replaced
adapters/<suite>/<id>.safetensors what was trained, when asked for
predictions/<suite>/<id>.<hash>.safetensors  what it said of every image, when asked for (predictions.py)
artefacts/<suite>/<id>.<stage>.safetensors  what a stage before training (score, supernet, evolve) left
checkpoints/<id>[.<stage>].safetensors  state of an interrupted run or stage; removed when its record is written
forced/                           what `force` has begun (forced.py); the names of its files hold .forced<n> after the id
leases/                           who is running what (lease.py)
"""

import copy
import hashlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from karst_bench import files
from karst_bench.errors import CheckpointError, DiskError, UserError
from karst_bench.records import record as schema
from karst_bench.records.agreement import check_id
from karst_bench.records.lease import Lease, refuse_if_lost
from karst_bench.records.record import FailedRun, RunRecord
from karst_bench.records.strict_json import RecordError
from karst_bench.tensors_file import to_safetensors

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def _checked(path: Path) -> RunRecord:
    """A finished run whose digest and id hold. Raises: RecordError."""
    record = schema.load(path)
    try:
        check_id(record)
    except RecordError as error:
        raise RecordError(f"{path.name}: {error}") from None
    return record


def finished_in(folder: Path) -> Iterator[RunRecord]:
    """All readable finished runs in a folder in order of id."""
    for path in sorted(folder.glob("*.json")):
        with suppress(RecordError):
            yield _checked(path)


class Store:
    """Reads and writes one suite's part of a results folder; many processes may share it."""

    lease: Lease | None = None
    attempt = ""  # what the names of a forced run's files hold after the id

    def __init__(self, root: Path | str, suite: str) -> None:
        """`root` is paths.results; raises UserError where `suite` is no plain name."""
        if schema.SUITE.fullmatch(suite) is None:
            raise UserError(f"suite {suite!r} is not a plain name; use suite=vtab or suite=mini")
        self.root = Path(root)
        self.suite = suite

    def under(self, lease: Lease) -> "Store":
        """This store for the holder of a lease, which is asked for before anything is written."""
        return self._changed(lease=lease)

    def for_attempt(self, number: int) -> "Store":
        """This store for a forced run: its files stand beside those of the record that it will replace."""
        return self._changed(attempt=f".forced{number}")

    def _changed(self, **attributes: object) -> "Store":
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def path(self, run_id: str, kind: str = "runs") -> Path:
        """Where a record of that id lies; kind = runs | failed."""
        if schema.ID.fullmatch(run_id) is None:
            raise ValueError(f"id {run_id!r} is not 16 hex digits")
        return self.root / kind / self.suite / f"{run_id}.json"

    def adapter_path(self, run_id: str) -> Path:
        """Where the adapter of that id will lie; where it lies, its record says."""
        return self.root / "adapters" / self.suite / f"{run_id}{self.attempt}.safetensors"

    def artefact_path(self, run_id: str, stage: str) -> Path:
        """Where the product of that stage of the run lies, or would."""
        return self.root / "artefacts" / self.suite / f"{run_id}{self.attempt}.{stage}.safetensors"

    def checkpoint_path(self, key: str) -> Path:
        """Where the checkpoint of that run (its id) or stage (`<id>.<stage>`) lies, or would."""
        run_id, dot, stage = key.partition(".")
        return self.root / "checkpoints" / f"{run_id}{self.attempt}{dot}{stage}.safetensors"

    def check_writable(self) -> None:
        """Raise UserError now, before hours of training, where a record could not be written at the end."""
        probe = self.root / "runs" / self.suite / f".probe.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        files.write(probe, b"\n")
        with suppress(OSError):
            probe.unlink()

    def find(self, run_id: str) -> RunRecord | None:
        """The finished run of that id, if there is one. A damaged record raises UserError: nothing is overwritten."""
        return self.read(run_id) if self.path(run_id).exists() else None

    def read(self, run_id: str) -> RunRecord:
        """The finished run of that id. Raises: UserError where its record is missing or damaged."""
        path = self.path(run_id)
        try:
            return _checked(path)
        except RecordError as error:
            raise UserError(f"{error}; the file is {path}: move it away to run this cell again") from error

    def records(self) -> Iterator[RunRecord]:
        """All readable finished runs of the suite in order of id; what is unreadable is passed over (reports say which)."""
        return finished_in(self.root / "runs" / self.suite)

    def failed(self) -> Iterator[FailedRun]:
        """All readable last failures of the suite's cells in order of id."""
        for path in sorted((self.root / "failed" / self.suite).glob("*.json")):
            with suppress(RecordError):
                yield schema.load_failed(path)

    def failures(self, run_id: str) -> int:
        """How often that cell has failed since it last succeeded or was forced."""
        try:
            return schema.load_failed(self.path(run_id, "failed")).attempts
        except RecordError:
            return 0

    def write(self, record: RunRecord) -> Path:
        """Write a finished record, once; checkpoints and an earlier failure make way for it.

        A forced run's replaces the standing record in one step; that one and all its files go to superseded/.
        Raises: UserError when the id is taken (the standing record stays as it is), LostLeaseError, DiskError.
        """
        from karst_bench.records import forced

        path, data = self.path(record.id), schema.dumps(record).encode()
        refuse_if_lost(self.lease, path)
        if self.attempt:
            old = self._kept(path)
            forced.will_write(self, record.id, data)
            files.write(path, data)
            self._move_products(record.id, old)
        elif not files.write(path, data, once=True):
            raise UserError(f"record {record.id} exists already at {path}; force=true replaces it and keeps the old one")
        with suppress(DiskError):  # the record stands
            self.retire_failure(record.id)
        self.drop_checkpoints(record.id)
        if self.attempt:
            forced.end(self, record.id)  # last: until then, whoever finds the record does what is left
        return path

    def fail(self, failed: FailedRun) -> Path:
        """Keep the failure of a cell apart from the results, counting the attempts; the next failure replaces it."""
        counted = replace(failed, attempts=self.failures(failed.id) + 1)
        path = self.path(failed.id, "failed")
        refuse_if_lost(self.lease, path)
        files.write(path, schema.dumps(counted).encode())
        return path

    def retire_failure(self, run_id: str) -> None:
        """Move the failure of a cell to superseded/, if there is one: it starts with no failures again."""
        path = self.path(run_id, "failed")
        if self._kept(path) is not None:
            with suppress(OSError):
                path.unlink()

    def next_number(self, run_id: str) -> int:
        """The first number that nothing of this cell in superseded/ has."""
        number = 1
        while self._superseded(run_id, number).exists():
            number += 1
        return number

    def _superseded(self, run_id: str, number: int) -> Path:
        return self.root / "superseded" / self.suite / f"{run_id}.{number}.json"

    def _kept(self, path: Path) -> Path | None:
        """A second name for that file in superseded/, where the last one is not the same file; None without the file."""
        if not path.exists():
            return None
        last = self._superseded(path.stem, self.next_number(path.stem) - 1)
        if last.exists() and last.read_bytes() == path.read_bytes():
            return last  # a process was killed between this and what comes after it
        try:
            last.parent.mkdir(parents=True, exist_ok=True)
            while not files.link_once(path, target := self._superseded(path.stem, self.next_number(path.stem))):
                pass
        except OSError as error:
            raise files.refusal(last.parent, error) from error
        return target

    def follow(self, run_id: str) -> None:
        """Of a forced run whose record stands: what the record before it has goes after that one, its own checkpoints go."""
        old = self._superseded(run_id, self.next_number(run_id) - 1)
        self._move_products(run_id, old if old.exists() else None)
        for path in self.checkpoint_path(run_id).parent.glob(f"{run_id}{self.attempt}.*safetensors"):
            with suppress(OSError):
                path.unlink()

    def _move_products(self, run_id: str, old: Path | None) -> None:
        """Adapter and artefacts of other attempts follow their record, or vanish where it has none."""
        for folder in (self.adapter_path(run_id).parent, self.artefact_path(run_id, "any").parent):
            for product in sorted(folder.glob(f"{run_id}.*safetensors")):
                _, _, stage = product.name.removesuffix(".safetensors").partition(".")
                attempt, _, stage = stage.partition(".") if stage.startswith("forced") else ("", "", stage)
                if attempt == self.attempt.removeprefix("."):
                    continue
                with suppress(OSError):
                    if old is None:
                        product.unlink()
                    else:
                        product.replace(old.with_suffix(f".{stage}.safetensors" if stage else ".safetensors"))

    def save_adapter(
        self, run_id: str, tensors: "Mapping[str, torch.Tensor]", about: Mapping[str, str]
    ) -> tuple[str, str]:
        """Write the trained tensors; returns (the path relative to the results folder, its SHA-256) for the record."""
        path = self.adapter_path(run_id)
        image = to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}, about)
        refuse_if_lost(self.lease, path)
        files.write(path, image)
        return path.relative_to(self.root).as_posix(), hashlib.sha256(image).hexdigest()

    def save_predictions(self, run_id: str, image: bytes) -> tuple[str, str]:
        """Write what was predicted (records/predictions.py) under a name of its own for other content, so that a record that
        was replaced keeps its own; returns (the path relative to the results folder, its SHA-256) for the record."""
        sha256 = hashlib.sha256(image).hexdigest()
        path = self.root / "predictions" / self.suite / f"{run_id}.{sha256[:8]}.safetensors"
        refuse_if_lost(self.lease, path)
        files.write(path, image)
        return path.relative_to(self.root).as_posix(), sha256

    def artefact(self, run_id: str, stage: str) -> "tuple[dict[str, torch.Tensor], dict[str, object]] | None":
        """The product of a run's stage before training, or None; one that is damaged is told and removed."""
        return self._read_state(self.artefact_path(run_id, stage))

    def save_artefact(
        self, run_id: str, stage: str, tensors: "Mapping[str, torch.Tensor]", meta: Mapping[str, object]
    ) -> None:
        """Write the product of a run's stage before training. Raises: as `save_checkpoint`."""
        self._write_state(self.artefact_path(run_id, stage), tensors, meta)

    def save_checkpoint(self, key: str, tensors: "Mapping[str, torch.Tensor]", meta: Mapping[str, object]) -> None:
        """Replace the checkpoint of a running cell or stage.

        Raises: DiskError; LostLeaseError; TypeError where meta is not JSON.
        """
        self._write_state(self.checkpoint_path(key), tensors, meta)

    def resumable(self, key: str) -> "tuple[dict[str, torch.Tensor], dict[str, object]] | None":
        """(tensors, meta) to resume from, or None; a checkpoint that is damaged is told and removed."""
        return self._read_state(self.checkpoint_path(key))

    def _write_state(self, path: Path, tensors: "Mapping[str, torch.Tensor]", meta: Mapping[str, object]) -> None:
        from karst_bench.records import checkpoint_file

        image = checkpoint_file.to_bytes(tensors, meta)
        refuse_if_lost(self.lease, path)
        files.write(path, image)

    def _read_state(self, path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, object]] | None":
        from karst_bench.records import checkpoint_file

        try:
            return checkpoint_file.from_file(path) if path.exists() else None
        except CheckpointError as error:
            self.discard(path, error)
            return None

    def discard(self, path: Path, error: CheckpointError) -> None:
        """Remove a file that cannot be gone on from, after one warning."""
        log.warning("%s; it is removed, and what it held is done anew", error)
        with suppress(OSError):
            path.unlink()

    def drop_checkpoints(self, run_id: str, *, of_forced: bool = True) -> None:
        """Forget all checkpoints of a finished run and its stages, and of its forced runs, which may be under way."""
        for path in self.checkpoint_path(run_id).parent.glob(f"{run_id}.*safetensors"):
            with suppress(OSError):
                if of_forced or not path.name.startswith(f"{run_id}.forced"):
                    path.unlink()

    def clear_temporaries(self, run_id: str) -> None:
        """Remove what a killed run of that id half wrote; for the holder of its lease."""
        files.clear_temporaries(self.root / "predictions" / self.suite, run_id)
        for path in (self.path(run_id), self.path(run_id, "failed"), self.adapter_path(run_id),
                     self.artefact_path(run_id, "any"), self.checkpoint_path(run_id)):  # fmt: skip
            files.clear_temporaries(path.parent, run_id)
