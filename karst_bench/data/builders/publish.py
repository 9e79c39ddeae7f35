"""The last steps of a build: lists, manifest, and an audit before anything is put in place."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from karst_bench.data.builders.staging import Staging, write_lists
from karst_bench.data.setup.audit import Finding, audit_task
from karst_bench.data.sources.manifest import AUDIT, MANIFEST, AuditNote, Manifest, UsedArchive, write_note
from karst_bench.errors import UserError

log = logging.getLogger(__name__)


def publish(
    dataset: Mapping[str, Any],
    place: Staging,
    rows: Mapping[str, Sequence[tuple[str, int]]],
    *,
    source: str,
    encoding: str,
    archives: tuple[UsedArchive, ...],
    own_split: str = "",
) -> None:
    """Write the lists, look at everything once, and write the manifest.

    Raises: UserError where an image cannot be read or a label is out of range: the folder is then not put in place.
    Images that two splits share byte for byte are warned of: the published sets have such.
    """
    write_lists(place.folder, rows)
    files_sha256 = place.finish()
    found = audit_task(dataset, root=place.folder, home=place.folder, images=True)
    if found.unreadable or found.out_of_range:
        first = (found.unreadable + found.out_of_range)[0]
        raise UserError(f"{dataset['name']}: what was built is not sound ({first}); nothing was put in place")
    if found.overlap:
        log.warning("%s: %d images of one split are in another too", dataset["name"], len(found.overlap))
    manifest = Manifest(
        task=dataset["name"],
        source=source,
        encoding=encoding,
        archives=archives,
        splits={name: len(listed) for name, listed in rows.items()},
        lists_sha256=found.list_sha256,
        files_sha256=files_sha256,
        own_split=own_split,
    )
    write_note(place.folder / MANIFEST, manifest)
    write_note(place.folder / AUDIT, audit_note(found))
    log.info("%s: %d images, %s, lists %s", dataset["name"], found.files, encoding, found.list_sha256[:12])


def audit_note(found: Finding) -> AuditNote:
    """An audit as it is kept beside the images."""
    problems = (*found.unreadable[:20], *found.out_of_range[:20], *found.overlap[:20])
    return AuditNote(datetime.now(UTC).isoformat(timespec="seconds"), found.sound, problems)


def audited(dataset: Mapping[str, Any], home: Path) -> Finding:
    """Audit a folder that is there, and write down when."""
    found = audit_task(dataset, root=home, home=home, images=True)
    keep_audit(found)
    return found


def keep_audit(found: Finding) -> None:
    """Write down beside a set's lists when it was audited and what was found; a folder that cannot be written is left."""
    with suppress(UserError):
        write_note(found.home / AUDIT, audit_note(found))
