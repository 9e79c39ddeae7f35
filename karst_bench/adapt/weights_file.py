"""Where a backbone's weights lie, and whether the file is the one that was first seen; nothing here imports torch."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from karst_bench import files
from karst_bench.adapt.hub_name import hub_weights, is_hub_name
from karst_bench.errors import UserError

SUMS = "SHA256SUMS.json"
SUFFIXES = (".safetensors", ".npz", ".pth", ".bin")
PACKAGED = Path(__file__).resolve().parent.parent / "weights"


class WeightsEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is recorded of a file: its hash and size, and the time it had then, in nanoseconds."""

    sha256: str
    bytes: int
    modified_ns: int = 0


def present_weights(tag: str, root: Path) -> Path | None:
    """The weights of timm's full name `tag` below root, if they are there."""
    return next((place for place in _places(tag, root) if place.is_file()), None)


def find_weights(backbone: Mapping[str, object], root: Path) -> Path | None:
    """The file of backbone.weights: None for `none`, a given path, or for `pretrained` the package's or paths.weights'.

    Raises: UserError naming every place that was looked at and the command that fetches the weights.
    """
    wanted, tag = str(backbone["weights"]), str(backbone["timm_name"])
    if wanted == "none":
        return None
    if wanted != "pretrained":
        path = Path(wanted)
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise UserError(
                f"backbone.weights={wanted}: no such file; give a {', '.join(SUFFIXES)} or a folder that timm saved"
            )
        return path
    if is_hub_name(tag):
        return hub_weights(tag)
    packaged = PACKAGED / f"{backbone['name']}.safetensors"
    found = packaged if packaged.is_file() else present_weights(tag, root)
    if found is None:
        raise UserError(
            f"the weights of {tag} are not here: looked for {', '.join(str(place) for place in _places(tag, root))}. "
            f"Fetch them with: karst-bench weights fetch {tag} --out {root}; "
            "or give a file (backbone.weights=PATH), or start from random weights (backbone.weights=none)"
        )
    return found


def weights_sha256(path: Path | None, root: Path | None = None) -> str | None:
    """The SHA-256 of a weights file; None for random weights.

    A file that <root>/SHA256SUMS.json records is read again only if its size or time changed since.
    Raises: UserError if it is no longer the file that was recorded, with both hashes.
    """
    if path is None:
        return None
    status = path.stat()
    entry = None if root is None else read_sums(root).get(_name(path, root))
    if entry is not None and (entry.bytes, entry.modified_ns) == (status.st_size, status.st_mtime_ns):
        return entry.sha256
    found = _sha256(path.resolve(), status.st_mtime_ns, status.st_size)
    if entry is not None and root is not None:
        _refuse_change(path, root, entry, found)
    return found


def check_weights(root: Path, file: Path) -> str:
    """The SHA-256 of `file`, computed anew; recorded in <root>/SHA256SUMS.json when the file is first seen.

    Raises: UserError if the file is not the one that was recorded, with both hashes; DiskError where nothing can be recorded.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such weights file; `karst-bench weights fetch TAG` fetches it")
    name, status, found = _name(file, root), file.stat(), files.sha256(file)
    try:
        with files.locked(root / f".{SUMS}.lock"):
            known = read_sums(root)
            if name in known:
                _refuse_change(file, root, known[name], found)
            known[name] = WeightsEntry(found, status.st_size, status.st_mtime_ns)
            text = msgspec.json.format(msgspec.json.encode(known, order="sorted"), indent=1) + b"\n"
            files.write(root / SUMS, text, setting="paths.weights")
    except OSError as error:
        raise files.refusal(root / SUMS, error, setting="paths.weights") from error
    return found


def read_sums(root: Path) -> dict[str, WeightsEntry]:
    """{path under root: what is recorded of it}. Raises: UserError if the file is of another form."""
    file = root / SUMS
    if not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, WeightsEntry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not JSON with sums ({error}); delete it, the sums will be recorded anew") from error


def _places(tag: str, root: Path) -> Iterator[Path]:
    yield root / tag / "model.safetensors"
    yield from (root / f"{tag}{suffix}" for suffix in SUFFIXES)


def _name(file: Path, root: Path) -> str:
    own, folder = file.resolve(), root.resolve()
    return own.relative_to(folder).as_posix() if own.is_relative_to(folder) else str(own)


def _refuse_change(file: Path, root: Path, entry: WeightsEntry, found: str) -> None:
    if entry.sha256 != found:
        raise UserError(
            f"{file}: SHA-256 is {found}, but {root / SUMS} recorded {entry.sha256} when it was first used. The"
            f" file was changed or damaged: fetch it again, or delete its entry if the change was meant."
        )


@functools.cache
def _sha256(path: Path, _mtime: int, _size: int) -> str:
    return files.sha256(path)
