"""Parquet files of a prepared folder, in the layout of the Hugging Face hub: one file a split, and a data card."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from karst_bench import files
from karst_bench.data.builders.staging import staging
from karst_bench.data.decode import read_bytes
from karst_bench.data.sources.layouts import VTAB_SPLITS
from karst_bench.data.sources.lists import ListEntry, lists_sha256, read
from karst_bench.data.sources.manifest import read_manifest
from karst_bench.errors import UserError

GROUP = 256  # rows of a row group: what a reader takes at once
FOLDER = "parquet"  # below root
ORIGIN = b"karst_bench.origin"  # metadata of every file: the hash over the folder it was made of


def write_parquet(dataset: Mapping[str, Any], home: Path, root: Path) -> Path:
    """<root>/parquet/<set>/data/<split>-00000-of-00001.parquet and README.md; the bytes of every image as they are.

    Files that are there already are kept. Raises: UserError where a list or an image of the folder is bad, or the files
    that are there were made of another copy of the set.
    """
    if dataset["suite"] != "vtab":
        raise UserError(f"{dataset['name']}: to=hf writes the tasks of VTAB-1K")
    target: Path = root / FOLDER / dataset["folder"]
    scans = {split: read(home / f"{split}.txt", dataset["classes"]).rows for split in VTAB_SPLITS}
    manifest = read_manifest(home)
    origin = manifest.files_sha256 if manifest else lists_sha256(scans)
    if target.exists():
        if _origin(target) != origin:
            raise UserError(
                f"{target}: holds parquet files of another copy of the set than {home}; move them away, or choose another"
                " root"
            )
        return target
    with staging(target, {"task": dataset["name"], "origin": origin}) as place:
        for split, rows in scans.items():
            path = place.folder / "data" / f"{split}-00000-of-00001.parquet"
            with files.stream(path) as out:
                _write(out, home, rows, origin)
            place.files[path.relative_to(place.folder).as_posix()] = files.sha256(path)
        card = data_card(dataset, home, {split: len(rows) for split, rows in scans.items()})
        files.write(place.folder / "README.md", card.encode(), setting="root")
        place.finish()
    return target


def _origin(target: Path) -> str:
    """What the files in `target` say they were made of; "" where they say nothing."""
    try:
        metadata = pq.read_schema(min(target.rglob("*.parquet"))).metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return ""
    return str(metadata.get(ORIGIN, b"").decode("utf-8", "replace"))


def _write(out: Any, home: Path, rows: tuple[ListEntry, ...], origin: str) -> None:
    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}), ORIGIN: origin}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)
    with pq.ParquetWriter(out, schema, write_page_checksum=True) as writer:
        for part in _parts(rows):
            images = [{"bytes": read_bytes(home / row.path), "path": Path(row.path).name} for row in part]
            writer.write_table(pa.Table.from_pydict({"image": images, "label": [row.label for row in part]}, schema))


def _parts(rows: tuple[ListEntry, ...]) -> Iterator[tuple[ListEntry, ...]]:
    for start in range(0, len(rows), GROUP):
        yield rows[start : start + GROUP]


def data_card(dataset: Mapping[str, Any], home: Path, sizes: Mapping[str, int]) -> str:
    """README.md: what the hub needs to find the splits, and what a reader should know before using them."""
    manifest = read_manifest(home)
    made = f"built by karst_bench from {manifest.source}" if manifest else "copied from a folder of unknown origin"
    encoding = manifest.encoding if manifest else "as they were found"
    splits = "\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in sizes)
    table = "\n".join(f"| {split} | {count} |" for split, count in sizes.items())
    notes = "".join(f"- {note}\n" for note in (manifest.notes() if manifest else ()))
    return f"""---
configs:
- config_name: default
  data_files:
{splits}
---
# {dataset["name"]} of VTAB-1K

{dataset["classes"]} classes. Images {encoding}, {made}. Columns: `image`, `label` (0..{dataset["classes"] - 1}).

| split | images |
|---|--:|
{table}

- Origin: {dataset["origin"]}
- Label: {dataset["label_rule"]}
- Licence of the images, as their authors state it: {dataset["licence"]}. Check it before you publish this copy.
- Known issues: {dataset["known_issues"]}
{notes}"""
