"""Fetches a backbone's weights by name, from the hub or an address."""

import difflib
import shutil
from collections.abc import Sequence
from pathlib import Path

from karst_bench import files
from karst_bench.adapt.weights_file import SUFFIXES, present_weights
from karst_bench.download import download
from karst_bench.errors import UserError


def fetch_tag(tag: str, root: Path, url: str | None = None) -> Path:
    """The weights file of a tag, fetched from `url` or where timm says unless it is there.

    Raises: UserError for an unknown tag, a bare architecture (its weights change between timm versions), or no network.
    """
    import timm  # the one function here that cannot do without, and with it torch

    known = timm.list_models(pretrained=True)
    if tag not in known:
        near = difflib.get_close_matches(tag, known, n=3) or [name for name in known if name.startswith(f"{tag}.")][:5]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"{tag}: timm {timm.__version__} has no weights of that full name{hint}")
    present = present_weights(tag, root)
    if present is not None:
        return present
    if url is not None:
        return fetch_url(tag, url, root)
    found = timm.get_pretrained_cfg(tag)
    if found and found.hf_hub_id:
        return fetch_hub(tag, found.hf_hub_id, root, ("model.safetensors", "config.json"))
    if found and found.url:
        return fetch_url(tag, str(found.url), root)
    raise UserError(f"{tag}: timm names no place to fetch it from; give url=ADDRESS")


def fetch_hub(tag: str, repository: str, root: Path, names: Sequence[str], revision: str | None = None) -> Path:
    """The files `names` of a hub repository as <root>/<tag>/<name>, the first being the weights: from its cache, or downloaded.

    Broken downloads are continued. The folder can be given as backbone.weights (timm's local-dir form). Raises:
    UserError where the hub does not answer or has no such repository.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    folder = root / tag
    try:
        for name in names:
            cached = try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(cached, str):
                with Path(cached).open("rb") as source, files.stream(folder / name) as target:
                    shutil.copyfileobj(source, target)
            else:
                hf_hub_download(repository, name, revision=revision, local_dir=folder)
    except HfHubHTTPError as error:
        raise UserError(f"hub repository {repository}: {error}; check the tag, or {_by_hand(folder, names)}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise UserError(
            f"hub repository {repository}: not reachable ({type(error).__name__}: {str(error).splitlines()[0]})."
            f" Without network access, {_by_hand(folder, names)}"
        ) from error
    return folder / names[0]


def fetch_url(tag: str, url: str, root: Path) -> Path:
    """A weights file at an address, as <root>/<tag> and its suffix; see `download`.

    Raises: UserError for a file of another kind, or where it cannot be fetched.
    """
    suffix = Path(url.partition("?")[0]).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"url={url}: not a weights file; its name must end in one of {', '.join(SUFFIXES)}")
    return download(url, root / f"{tag}{suffix}")


def _by_hand(folder: Path, names: Sequence[str]) -> str:
    """What to do where nothing can be fetched."""
    return (
        f"copy {' and '.join(names)} of that repository to {folder} and run this again; or point HF_HOME to a filled"
        f" hub cache; or give a file you have: backbone.weights=PATH ({', '.join(SUFFIXES)}, or such a folder)."
    )
