"""The results folder: one write-once JSON per finished run, failures apart, adapters and checkpoints beside.

runs/<suite>/<id>.json            finished runs, never overwritten
failed/<suite>/<id>.json          the last failure of a cell, with traceback and the count of attempts
superseded/<suite>/<id>.<n>.json  what `force` (or a later success) replaced
adapters/<suite>/<id>.safetensors what was trained, when asked for
predictions/<suite>/<id>.<hash>.safetensors  what it said of every image, when asked for (predictions.py)
artefacts/<suite>/<id>.<stage>.safetensors  what a stage before training (score, supernet, evolve) left
checkpoints/<id>[.<stage>].safetensors  state of an interrupted run or stage; removed when its record is written
leases/                           who is running what (lease.py)
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from karst_bench import files
from karst_bench.errors import UserError
from karst_bench.records import record as schema
from karst_bench.records.record import FailedRun, RunRecord
from karst_bench.records.strict_json import RecordError
from karst_bench.tensors_file import to_safetensors

if TYPE_CHECKING:
    import torch


class Store:
    """Reads and writes one suite's part of a results folder; many processes may share it."""

    def __init__(self, root: Path | str, suite: str) -> None:
        """`root` is paths.results; raises UserError where `suite` is no plain name."""
        if schema.SUITE.fullmatch(suite) is None:
            raise UserError(f"suite {suite!r} is not a plain name; use suite=vtab or suite=mini")
        self.root = Path(root)
        self.suite = suite

    def path(self, run_id: str, kind: str = "runs") -> Path:
        """Where a record of that id lies; kind = runs | failed."""
        if schema.ID.fullmatch(run_id) is None:
            raise ValueError(f"id {run_id!r} is not 16 hex digits")
        return self.root / kind / self.suite / f"{run_id}.json"

    def adapter_path(self, run_id: str) -> Path:
        """Where the adapter of that id lies, or would."""
        return self.root / "adapters" / self.suite / f"{run_id}.safetensors"

    def artefact_path(self, run_id: str, stage: str) -> Path:
        """Where the product of that stage of the run lies, or would."""
        return self.root / "artefacts" / self.suite / f"{run_id}.{stage}.safetensors"

    def checkpoint_path(self, run_id: str) -> Path:
        """Where the checkpoint of that id lies, or would."""
        return self.root / "checkpoints" / f"{run_id}.safetensors"

    def check_writable(self) -> None:
        """Raise UserError now, before hours of training, where a record could not be written at the end."""
        probe = self.root / "runs" / self.suite / f".probe.{os.getpid()}.{secrets.token_hex(4)}"
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
            return schema.load(path)
        except RecordError as error:
            raise UserError(f"{error}; the file is {path}: move it away to run this cell again") from error

    def records(self) -> Iterator[RunRecord]:
        """All readable finished runs of the suite in order of id; what is unreadable is passed over (reports say which)."""
        for path in sorted((self.root / "runs" / self.suite).glob("*.json")):
            with suppress(RecordError):
                yield schema.load(path)

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
        """Write a finished record, once; the checkpoint and an earlier failure make way for it.

        Raises: UserError when the id is taken (the standing record stays as it is) or the disk refuses.
        """
        path = self.path(record.id)
        if not files.write(path, schema.dumps(record).encode(), once=True):
            raise UserError(f"record {record.id} exists already at {path}; force=true moves the old one to superseded/")
        self._retire(self.path(record.id, "failed"))
        self.drop_checkpoint(record.id)
        return path

    def fail(self, failed: FailedRun) -> Path:
        """Keep the failure of a cell apart from the results, counting the attempts; the next failure replaces it."""
        counted = replace(failed, attempts=self.failures(failed.id) + 1)
        path = self.path(failed.id, "failed")
        files.write(path, schema.dumps(counted).encode())
        return path

    def supersede(self, run_id: str) -> Path | None:
        """Move the standing record, its adapter and its failures to superseded/; None where there is nothing."""
        self.drop_checkpoint(run_id)
        self._retire(self.path(run_id, "failed"))
        moved = self._retire(self.path(run_id))
        if moved is not None and self.adapter_path(run_id).exists():
            with suppress(OSError):
                self.adapter_path(run_id).replace(moved.with_suffix(".safetensors"))
        for artefact in sorted(self.artefact_path(run_id, "any").parent.glob(f"{run_id}.*.safetensors")):
            with suppress(OSError):
                if moved is None:
                    artefact.unlink()
                else:
                    artefact.replace(moved.with_suffix(f".{artefact.name.removeprefix(f'{run_id}.')}"))
        return moved

    def _retire(self, path: Path) -> Path | None:
        if not path.exists():
            return None
        folder = self.root / "superseded" / self.suite
        try:
            folder.mkdir(parents=True, exist_ok=True)
            number = 1
            while not files.link_once(path, target := folder / f"{path.stem}.{number}.json"):
                number += 1
            path.unlink()
        except OSError as error:
            raise files.refusal(folder, error) from error
        return target

    def save_adapter(
        self, run_id: str, tensors: "Mapping[str, torch.Tensor]", about: Mapping[str, str]
    ) -> tuple[str, str]:
        """Write the trained tensors; returns (the path relative to the results folder, its SHA-256) for the record."""
        path = self.adapter_path(run_id)
        image = to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}, about)
        files.write(path, image)
        return path.relative_to(self.root).as_posix(), hashlib.sha256(image).hexdigest()

    def save_predictions(self, run_id: str, image: bytes) -> tuple[str, str]:
        """Write what was predicted (records/predictions.py) under a name of its own for other content, so that a record that
        was replaced keeps its own; returns (the path relative to the results folder, its SHA-256) for the record."""
        sha256 = hashlib.sha256(image).hexdigest()
        path = self.root / "predictions" / self.suite / f"{run_id}.{sha256[:8]}.safetensors"
        files.write(path, image)
        return path.relative_to(self.root).as_posix(), sha256

    def artefact(
        self, run_id: str, stage: str, make: "Callable[[], tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]]"
    ) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
        """The product of a run's stage before training: read where its file stands, else made and written whole.

        Raises: UserError where the file is damaged or the disk refuses; whatever `make` raises.
        """
        from karst_bench.records import checkpoint_file

        path = self.artefact_path(run_id, stage)
        if not path.exists():
            files.write(path, checkpoint_file.to_bytes(*make()))
        return checkpoint_file.from_file(path)

    def save_checkpoint(self, run_id: str, tensors: "Mapping[str, torch.Tensor]", meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint of a running cell. Raises: UserError where the disk refuses, TypeError by `to_bytes`."""
        from karst_bench.records import checkpoint_file

        files.write(self.checkpoint_path(run_id), checkpoint_file.to_bytes(tensors, meta))

    def load_checkpoint(self, run_id: str) -> "tuple[dict[str, torch.Tensor], dict[str, Any]] | None":
        """(tensors, meta) to resume from, or None. Raises: UserError where the file is damaged or foreign."""
        from karst_bench.records import checkpoint_file

        path = self.checkpoint_path(run_id)
        return checkpoint_file.from_file(path) if path.exists() else None

    def drop_checkpoint(self, run_id: str) -> None:
        """Forget the checkpoints of that id and its stages, if any; of one stage, if it is named `<id>.<stage>`."""
        for path in [*self.checkpoint_path(run_id).parent.glob(f"{run_id}.*safetensors")]:
            with suppress(OSError):
                path.unlink()

    def clear_temporaries(self, run_id: str) -> None:
        """Remove what a killed run of that id half wrote; for the holder of its lease."""
        files.clear_temporaries(self.root / "predictions" / self.suite, run_id)
        for path in (self.path(run_id), self.path(run_id, "failed"), self.adapter_path(run_id),
                     self.artefact_path(run_id, "any")):  # fmt: skip
            files.clear_temporaries(path.parent, run_id)
        files.clear_temporaries(self.checkpoint_path(run_id).parent, run_id)
