"""dataset.source=hf: image and label columns of parquet files: a local folder, the hub's cache, or the hub.

Two layouts: `splits` has VTAB-1K's own splits; `full` has the original set, from which the 1000 are chosen by the keys of
the examples where the files carry them, and which else serves for the test set alone.
"""

import hashlib
import io
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from karst_bench.data.cache.cache import Cache
from karst_bench.data.decode import BadImageError, decode_bytes, jpeg_quality, opened_image
from karst_bench.data.images import Source
from karst_bench.data.resize import Resize
from karst_bench.data.sources.parquet_keys import chosen_rows
from karst_bench.data.sources.parquet_places import Snapshot, find_snapshot
from karst_bench.data.sources.vtab_splits import SPLITS
from karst_bench.data.task import JoinedSplit, LazySplits, Split, Task
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
LARGEST_GROUP = 4 << 30  # bytes of one row group in memory; more is a mistake or a trap
_DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError, OverflowError)
_FILE = re.compile(r"^(?P<split>.+?)(?:-(?P<number>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?|-\d+)?$")


@dataclass(frozen=True)
class RowPlace:
    """Where one picture lies: file, row group, row within it."""

    file: int
    group: int
    row: int


def load_parquet(dataset: Mapping[str, Any], *, data_root: Path, cache: Cache, size: int) -> Task:
    """The task of a VTAB dataset, from parquet files. Raises: UserError where there are none, or they are damaged."""
    snapshot = find_snapshot(dataset, data_root)
    tables = {split: ParquetTable(paths, snapshot) for split, paths in split_files(snapshot).items()}
    if not tables:
        raise UserError(
            f"{snapshot.folder}: holds no parquet file that names its split (train800-..., test-..., test/...)"
        )
    parts, found = _parts(dataset, snapshot, tables)
    resize = Resize(dataset["transform"], size)
    made: dict[str, ParquetSource] = {}

    def open_split(name: str) -> Split:
        if name not in made:
            table, rows = parts[name]
            made[name] = ParquetSource(dataset["name"].replace("/", "-"), name, table, rows, dataset["classes"])
        return cache.open(made[name], resize, native=name == "test")

    makers: dict[str, Any] = {name: partial(open_split, name) for name in parts}
    for name in SPLITS:
        makers.setdefault(name, partial(_refuse, dataset, snapshot, name))
    makers["train800val200"] = lambda: JoinedSplit("train800val200", (splits["train800"], splits["val200"]))
    splits: LazySplits = LazySplits(makers)
    for text in found:
        log.warning("%s: %s", dataset["name"], text)
    return Task(
        name=dataset["name"],
        classes=dataset["classes"],
        splits=splits,
        list_sha256=_sha256(parts),
        encoding=_encoding(next(iter(parts.values()))),
        source="hf",
        own_split=bool(found),
        notes=(snapshot.origin(), *(f"own split: {text}" for text in found)),
    )


def split_files(snapshot: Snapshot) -> dict[str, list[Path]]:
    """{split: its parquet files, in order}, by the name of the file (train800-00000-of-00001) or of its folder.

    Raises: UserError where a file of a numbered series is missing, as a broken-off download leaves it.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(snapshot.folder.rglob("*.parquet")):
        match = _FILE.match(path.stem)
        name = match["split"] if match else path.stem
        if name.isdigit():
            name = path.parent.name
        if name != "train800val200":  # the two others joined
            found.setdefault({"val": "validation", "valid": "validation"}.get(name, name), []).append(path)
    for name, paths in found.items():
        counts = {int(match["count"]) for path in paths if (match := _FILE.match(path.stem)) and match["count"]}
        if counts and counts != {len(paths)}:
            raise UserError(
                f"{snapshot.folder}: holds {len(paths)} of the {max(counts)} files of {name}, the first of them"
                f" {paths[0].name}; fetch the whole repository again"
            )
    return found


class ParquetTable:
    """The parquet files of one split. labels are read when first asked for, pictures a row group at a time."""

    def __init__(self, paths: Sequence[Path], snapshot: Snapshot) -> None:
        self.paths = list(paths)
        self.snapshot = snapshot
        self.files = [self._opened(path) for path in paths]
        self.rows = [
            RowPlace(number, group, row)
            for number, file in enumerate(self.files)
            for group in range(file.metadata.num_row_groups)
            for row in range(file.metadata.row_group(group).num_rows)
        ]
        self._groups: dict[tuple[int, int], Any] = {}
        self._one_at_a_time = threading.Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def _opened(self, path: Path) -> Any:
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            names = set(file.schema_arrow.names)
        except _DAMAGE as error:
            raise UserError(f"{path}: no readable parquet file ({error}); fetch it again") from error
        absent = {self.snapshot.image, self.snapshot.label} - names
        if absent:
            raise UserError(
                f"{path}: has no column {', '.join(sorted(absent))} (but {', '.join(sorted(names))}); name the columns with"
                " +dataset.hf.image=... +dataset.hf.label=..."
            )
        if any(not 0 <= group.total_byte_size <= LARGEST_GROUP or group.num_rows < 0 for group in groups):
            raise UserError(f"{path}: a row group claims more than {LARGEST_GROUP} bytes; not a file to trust")
        if sum(group.num_rows for group in groups) > max(1000, path.stat().st_size):
            raise UserError(f"{path}: claims more rows than it has bytes; not a file to trust")
        return file

    def column(self, name: str) -> list[Any]:
        """All values of a small column."""
        found: list[Any] = []
        for path, file in zip(self.paths, self.files, strict=True):
            try:
                found += file.read(columns=[name], use_threads=False).column(0).to_pylist()
            except _DAMAGE as error:
                raise UserError(f"{path}: column {name} cannot be read ({error}); fetch it again") from error
        return found

    def labels(self) -> list[int]:
        """The label of every row. Raises: UserError for labels that are no integers."""
        found = self.column(self.snapshot.label)
        if not all(isinstance(label, int) and not isinstance(label, bool) for label in found):
            raise UserError(f"{self.paths[0]}: column {self.snapshot.label} holds other things than integers")
        return found

    def keys(self) -> list[str] | None:
        """The key of every row, where a column carries keys (names of the original files); None where none does."""
        for name in ("key", "file_name", "filename", "image/file_name", "id", "__key__"):
            if name in self.files[0].schema_arrow.names:
                return [str(value) for value in self.column(name)]
        return None

    def picture(self, index: int) -> bytes:
        """The stored bytes of a row's image. Raises: BadImageError naming the file and the row."""
        row = self.rows[index]
        path = self.paths[row.file]
        try:
            value = self._group(row)[row.row].as_py()
        except _DAMAGE as error:
            raise BadImageError(f"{path}: row group {row.group} cannot be read ({error}); fetch it again") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise BadImageError(f"{path}: row {index} of {self.snapshot.image} holds no image bytes; fetch it again")
        return data

    def _group(self, row: RowPlace) -> Any:
        where = (row.file, row.group)
        with self._one_at_a_time:
            if where not in self._groups:
                table = self.files[row.file].read_row_group(row.group, columns=[self.snapshot.image], use_threads=False)
                if len(self._groups) >= 2:  # pictures are read in order: the one in hand, and the one before it
                    self._groups.pop(next(iter(self._groups)))
                self._groups[where] = table.column(0)
            return self._groups[where]


Parts = dict[str, tuple[ParquetTable, list[int]]]


def _parts(
    dataset: Mapping[str, Any], snapshot: Snapshot, tables: Mapping[str, ParquetTable]
) -> tuple[Parts, list[str]]:
    """{split: (table, its rows)} and in what they differ from VTAB-1K's."""
    parts: Parts
    if "train800" in tables:
        parts = {name: (tables[name], list(range(len(tables[name])))) for name in SPLITS if name in tables}
        found: list[str] = []
    else:
        keyed = {split: (table, table.keys()) for split, table in tables.items()}
        parts, found = chosen_rows(dataset, keyed)
        if "test" not in parts and "test" in tables:
            parts["test"] = (tables["test"], list(range(len(tables["test"]))))
    if not parts:
        raise UserError(f"{snapshot.folder}: holds none of the splits {', '.join(SPLITS)} (but {', '.join(tables)})")
    found += [
        f"{name} has {len(rows)} images, not {dataset['sizes'][name]}"
        for name, (_, rows) in parts.items()
        if len(rows) != dataset["sizes"][name]
    ]
    return parts, found


class ParquetSource(Source):
    """Rows of a table as labelled pictures. Raises: UserError on construction for a label out of range."""

    def __init__(self, folder: str, name: str, table: ParquetTable, rows: Sequence[int], classes: int) -> None:
        self.folder = folder
        self.name = name
        labels = table.labels()
        wrong = [row for row in rows if not 0 <= labels[row] < classes]
        if wrong:
            raise UserError(f"{table.paths[0]}: row {wrong[0]} has label {labels[wrong[0]]}, outside 0..{classes - 1}")
        self.labels = torch.tensor([labels[row] for row in rows], dtype=torch.int64)
        self._table = table
        self._rows = list(rows)

    def load(self, index: int) -> torch.Tensor:
        """Picture `index`: uint8 (3, h, w). Raises: BadImageError naming the file and the row."""
        row = self._rows[index]
        path = self._table.paths[self._table.rows[row].file]
        return decode_bytes(self._table.picture(row), f"{path}, row {row}")

    def fingerprint(self) -> str:
        """Over the files' names, sizes and times, and the rows."""
        states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self._table.paths]
        return hashlib.sha256(f"{states} {self._rows}".encode()).hexdigest()


def _sha256(parts: Parts) -> str:
    """Over the labels of every split and the sizes of its files: the same wherever the files lie."""
    texts = [
        f"{name} {[path.stat().st_size for path in table.paths]} {rows if len(rows) < len(table) else 'all'} {table.labels()}"
        for name, (table, rows) in sorted(parts.items())
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _encoding(part: tuple[ParquetTable, list[int]]) -> str:
    """png | jpeg<quality> | native (webp, or mixed), from a few rows."""
    table, rows = part
    found = set()
    for row in rows[:: max(1, len(rows) // 4)]:
        data = io.BytesIO(table.picture(row))
        quality = jpeg_quality(data)
        data.seek(0)
        try:
            with opened_image(data) as image:
                found.add(f"jpeg{quality}" if quality else "png" if image.format == "PNG" else "native")
        except (OSError, SyntaxError, ValueError) as error:
            raise BadImageError(
                f"{table.paths[0]}: row {row} holds no readable image ({error}); fetch it again"
            ) from error
    return found.pop() if len(found) == 1 else "native"


def _refuse(dataset: Mapping[str, Any], snapshot: Snapshot, name: str) -> Split:
    raise UserError(
        f"dataset={dataset['name']}: {snapshot.folder} cannot give {name}: its files hold the original set without the"
        " names of its examples, and the order in which VTAB-1K chooses 1000 cannot be shown to be theirs. It serves for"
        " the test set (action=evaluate); for training use source=raw of `karst-bench data prepare`, or a copy with the"
        " splits train800, val200 and test."
    )
