"""Backbone weights on disk: fetched by name, their SHA-256 recorded when first seen and checked ever after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from karst_bench import files
from karst_bench.download import download
from karst_bench.errors import UserError

SUMS = "SHA256SUMS.json"
SUFFIXES = (".safetensors", ".npz", ".pth", ".bin")


def check_weights(root: Path, file: Path) -> str:
    """The SHA-256 of `file`, recorded in <root>/SHA256SUMS.json when it is first seen.

    Raises: UserError if the file is not the one that was recorded, with both hashes.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such weights file; `python scripts/fetch_weights.py tag=...` fetches it")
    name = file.resolve().relative_to(root.resolve()).as_posix() if file.is_relative_to(root) else str(file)
    found = files.sha256(file)
    with files.locked(root / f".{SUMS}.lock"):
        known = read_sums(root)
        entry = known.get(name)
        if entry is None:
            known[name] = {"sha256": found, "bytes": file.stat().st_size}
            text = json.dumps(known, indent=1, sort_keys=True) + "\n"
            files.write(root / SUMS, text.encode(), setting="paths.weights")
        elif entry["sha256"] != found:
            raise UserError(
                f"{file}: SHA-256 is {found}, but {root / SUMS} recorded {entry['sha256']} when it was first used. The"
                f" file was changed or damaged: fetch it again, or delete its entry if the change was meant."
            )
    return found


def read_sums(root: Path) -> dict[str, dict[str, str | int]]:
    """{path under root: {sha256, bytes}} as recorded. Raises: UserError if the file is no JSON object."""
    file = root / SUMS
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); delete it, the sums will be recorded anew") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a JSON object; delete it, the sums will be recorded anew")
    return found


def fetch_hub(tag: str, repository: str, root: Path, files: Sequence[str], revision: str | None = None) -> Path:
    """`files` of a hub repository as <root>/<tag>/<file>, the first being the weights: from its cache, or downloaded.

    Broken downloads are continued. The folder can be given as backbone.weights (timm's local-dir form). Raises:
    UserError where the hub does not answer or has no such repository.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    folder = root / tag
    try:
        for file in files:
            cached = try_to_load_from_cache(repository, file, revision=revision)
            if isinstance(cached, str):
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cached, folder / f"{file}.partial")
                (folder / f"{file}.partial").replace(folder / file)
            else:
                hf_hub_download(repository, file, revision=revision, local_dir=folder)
    except HfHubHTTPError as error:
        raise UserError(f"hub repository {repository}: {error}; check the tag, or {by_hand(folder, files)}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise UserError(
            f"hub repository {repository}: not reachable ({type(error).__name__}: {str(error).splitlines()[0]})."
            f" Without network access, {by_hand(folder, files)}"
        ) from error
    return folder / files[0]


def fetch_url(tag: str, url: str, root: Path) -> Path:
    """A weights file (.npz, .pth, .safetensors) at an address, as <root>/<tag> and its suffix; see `download`."""
    suffix = Path(url.partition("?")[0]).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"url={url}: not a weights file; its name must end in one of {', '.join(SUFFIXES)}")
    return download(url, root / f"{tag}{suffix}")


def present_weights(tag: str, root: Path) -> Path | None:
    """The weights of a tag that are there: <root>/<tag>/model.safetensors, or <root>/<tag> with a suffix."""
    places = [root / tag / "model.safetensors", *(root / f"{tag}{suffix}" for suffix in SUFFIXES)]
    return next((place for place in places if place.is_file()), None)


def by_hand(folder: Path, files: Sequence[str]) -> str:
    """What to do where nothing can be fetched."""
    return (
        f"copy {' and '.join(files)} of that repository to {folder} and run this again; or point HF_HOME to a filled"
        " hub cache; or give a file you have: backbone.weights=PATH (.npz, .pth, .safetensors, or such a folder)."
    )
