"""The folder of a fine-grained set: its pictures as they are, and three lists."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from karst_bench import files
from karst_bench.data.builders.fgvc.birds import Cub, NaBirds
from karst_bench.data.builders.fgvc.cars import Cars
from karst_bench.data.builders.fgvc.dogs import Dogs
from karst_bench.data.builders.fgvc.flowers import Flowers
from karst_bench.data.builders.fgvc.reader import FgvcReader
from karst_bench.data.builders.fgvc.vpt_lists import draw_validation, read_lists
from karst_bench.data.builders.obtain import check, obtain
from karst_bench.data.builders.publish import publish
from karst_bench.data.builders.staging import staging
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
READERS: dict[str, type[FgvcReader]] = {"cub": Cub, "nabirds": NaBirds, "flowers": Flowers, "dogs": Dogs, "cars": Cars}
DRAWN = "the validation list was drawn here (a tenth of train, by a hash of the paths), not by VPT"


def build_fgvc(
    dataset: Mapping[str, Any], home: Path, *, root: Path, archive: Path | None, lists: Path | None, verify: bool
) -> None:
    """The folder `home` of a fine-grained set: images/<path> as stored, and train.txt, val.txt, test.txt.

    lists: a folder or zip of VPT's JSON lists; None: the authors' split, a tenth of train kept for validation.
    Raises: UserError for what is missing, damaged or not the published file.
    """
    name, kind = dataset["name"], READERS[dataset["task"]]
    found = obtain(name, kind.archives, given=archive, root=root, instructions=kind.instructions)
    used = check(name, kind.archives, found, verify=verify)
    listed = "" if lists is None else files.sha256(lists) if lists.is_file() else str(lists)
    plan = {"task": name, "lists": listed, "archives": [[item.name, item.size, item.sha256] for item in used]}
    with staging(home, plan) as place:
        reader = kind(found)
        official = reader.labels()
        known = {path for entries in official.values() for path in entries}
        split, drawn = draw_validation(official) if lists is None else (read_lists(lists, dataset, known), False)
        paths = {path for entries in split.values() for path in entries}
        unsafe = [path for path in paths if path.startswith("/") or ".." in path.split("/")]
        if unsafe:
            raise UserError(f"{name}: its lists name {unsafe[0]}, which leaves the folder; not files to trust")
        missing = {path for path in paths if f"images/{path}" not in place.files}
        place.write_all(_jobs(reader, missing), len(missing))
        if missing:
            raise UserError(
                f"{name}: {len(missing)} pictures are not in its archives, first {min(missing)}; fetch them again"
            )
        rows = {part: [(f"images/{path}", label) for path, label in entries.items()] for part, entries in split.items()}
        publish(dataset, place, rows, source="raw", encoding="native", archives=used, own_split=DRAWN if drawn else "")


def _jobs(reader: FgvcReader, missing: set[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The pictures as they are met, which then leave `missing`."""
    for path, data in reader.pictures(set(missing)):
        if path in missing:
            missing.discard(path)
            yield f"images/{path}", partial(bytes, data)
