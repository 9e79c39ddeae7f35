"""A VTAB-1K folder from a set's original archives: the rule's images, in the order of their hash, and nothing else."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from karst_bench import files
from karst_bench.data.builders.obtain import check, obtain
from karst_bench.data.builders.publish import publish
from karst_bench.data.builders.raw import Raw, RawReader, decode_checked
from karst_bench.data.builders.staging import Staging, encode, known_encoding, staging
from karst_bench.data.builders.tasks import READERS
from karst_bench.data.sources.manifest import KEYS
from karst_bench.data.sources.vtab_splits import SPLITS, Key, keys_of_splits, source_split
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
Slots = dict[tuple[str, Key], str]
Rows = dict[str, list[tuple[str, int]]]


def build_raw(
    dataset: Mapping[str, Any], home: Path, *, root: Path, encoding: str, archive: Path | None, verify: bool
) -> None:
    """The folder `home` of a VTAB task, from the files in `archive` or fetched below `root`.

    Raises: UserError for what is missing, damaged or not the published file.
    """
    name, kind = dataset["name"], READERS[dataset["task"]]
    suffix = known_encoding(encoding)
    found = obtain(name, kind.archives, given=archive, root=root, instructions=kind.instructions)
    used = check(name, kind.archives, found, verify=verify)
    plan = {"task": name, "encoding": encoding, "archives": [[item.name, item.size, item.sha256] for item in used]}
    with staging(home, plan) as place:
        reader = kind(found, dataset["task"], place.folder / "scratch")
        keys, rows, slots = chosen(reader, dataset, suffix)
        log.info("%s: %d images of %s", name, len(slots), ", ".join(str(path) for path in found.values()))
        _write_pictures(reader, place, slots, encoding)
        _join(place, rows, suffix)
        lines = "".join(f"{split}\t{number}\t{key}\n" for split in SPLITS for number, key in enumerate(keys[split]))
        files.write(place.folder / KEYS, lines.encode(), setting="root")
        publish(dataset, place, rows, source="raw", encoding=encoding, archives=used, own_split=kind.own_split)


def chosen(reader: RawReader, dataset: Mapping[str, Any], suffix: str) -> tuple[dict[str, list[Key]], Rows, Slots]:
    """The rule's keys of each split, the rows of its list, and the file each (original split, key) becomes."""
    labels = {split: reader.labels(split) for split in {source_split(dataset["task"], name) for name in SPLITS}}
    keys = keys_of_splits(dataset["task"], labels)
    rows: Rows = {}
    slots: Slots = {}
    for name in SPLITS:
        source = source_split(dataset["task"], name)
        if not keys[name]:
            raise UserError(
                f"{dataset['name']}: its archive leaves nothing for {name} ({len(labels[source])} in {source})"
            )
        files_of = [f"images/{name}/{number:06d}{suffix}" for number in range(len(keys[name]))]
        rows[name] = [(file, labels[source][key]) for file, key in zip(files_of, keys[name], strict=True)]
        slots |= {(source, key): file for file, key in zip(files_of, keys[name], strict=True)}
    outside = [label for found in rows.values() for _, label in found if not 0 <= label < dataset["classes"]]
    if outside:
        raise UserError(
            f"{dataset['name']}: label {outside[0]} lies outside 0..{dataset['classes'] - 1}; not the published archive"
        )
    return keys, rows, slots


def _write_pictures(reader: RawReader, place: Staging, slots: Slots, encoding: str) -> None:
    missing = {slot: file for slot, file in slots.items() if file not in place.files}
    if len(missing) < len(slots):
        log.info("%s: going on after %d pictures", place.home, len(slots) - len(missing))
    total = len(missing)
    if missing:
        place.write_all(_jobs(reader, missing, encoding), total)
    if missing:
        (_, key), _ = next(iter(missing.items()))
        raise UserError(
            f"{reader.task}: {len(missing)} of {total} pictures are not in its archive, first {key}; fetch it again"
        )


def _jobs(reader: RawReader, missing: Slots, encoding: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """What is to be made of each picture as the archive yields it; what was met leaves `missing`."""
    wanted: dict[str, set[Key]] = {}
    for split, key in missing:
        wanted.setdefault(split, set()).add(key)
    for split, key, stored in reader.pictures(wanted):
        file = missing.pop((split, key), None)
        if file is not None:
            yield file, partial(_made, reader, key, stored, encoding)


def _made(reader: RawReader, key: Key, stored: Raw, encoding: str) -> bytes:
    return encode(decode_checked(reader, key, stored), encoding)


def _join(place: Staging, rows: Rows, suffix: str) -> None:
    """train800val200: the images of both a second time, as the distributed folders have them."""
    joined = []
    for number, (file, label) in enumerate(rows["train800"] + rows["val200"]):
        name = f"images/train800val200/{number:06d}{suffix}"
        if name not in place.files:
            place.copy(name, file)
        joined.append((name, label))
    rows["train800val200"] = joined
