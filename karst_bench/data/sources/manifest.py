"""What a folder that this suite built says about itself: manifest.json, files.sha256, keys.tsv and audit.json."""

import json
from pathlib import Path
from typing import Any

import msgspec

from karst_bench import files
from karst_bench.errors import UserError

MANIFEST, SUMS, KEYS, AUDIT = "manifest.json", "files.sha256", "keys.tsv", "audit.json"


class UsedArchive(msgspec.Struct, frozen=True):
    """An original file that went in. known: its hash is the published one; None: none is known to compare with."""

    name: str
    size: int
    sha256: str
    known: bool | None


class Manifest(msgspec.Struct, frozen=True):
    """How a folder came to be. own_split: why its split is not the published one, or "". splits: images in each.

    lists_sha256: of the four lists; files_sha256: of files.sha256, which holds that of every image.
    """

    task: str
    source: str
    encoding: str
    archives: tuple[UsedArchive, ...]
    splits: dict[str, int]
    lists_sha256: str
    files_sha256: str
    own_split: str = ""
    format: int = 1

    def notes(self) -> tuple[str, ...]:
        """What a reader of a record should know of this folder."""
        unknown = [archive.name for archive in self.archives if archive.known is False]
        found = [f"own split: {self.own_split}"] if self.own_split else []
        if unknown:
            found.append(f"built from files that differ from the published ones: {', '.join(unknown)}")
        return tuple(found)


class AuditNote(msgspec.Struct, frozen=True):
    """When a folder was audited, and what was found wrong (empty where it is sound)."""

    time: str
    sound: bool
    problems: tuple[str, ...] = ()


def read_manifest(home: Path) -> Manifest | None:
    """The manifest of a set's folder; None where it was not built by this suite.

    Raises: UserError for a manifest that is there and cannot be read.
    """
    found: Manifest | None = _read(home / MANIFEST, Manifest)
    return found


def read_audit(home: Path) -> AuditNote | None:
    """The last audit that was written down for a folder, if any. Raises: UserError for a damaged note."""
    found: AuditNote | None = _read(home / AUDIT, AuditNote)
    return found


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); delete it, and the folder counts as not built here"
        ) from error


def write_note(path: Path, note: msgspec.Struct) -> None:
    """A manifest or an audit note, whole or not at all."""
    text = json.dumps(msgspec.to_builtins(note), indent=1) + "\n"
    files.write(path, text.encode(), setting="root")
