"""python scripts/fetch_weights.py vit_base_patch16_224.orig_in21k [out=weights] [url=ADDRESS] [--check]

Fetches a backbone's weights by timm's full name (architecture.tag; bare names are refused, their weights change between
timm versions) into out=, the folder of paths.weights, from the hub, or from url= (for instance the original
ViT-B_16.npz). A broken download is continued. The SHA-256 of the file is recorded in SHA256SUMS.json there when it is
first fetched and checked after that; --check alone checks every recorded file. A run finds the weights there by itself.
The suite's names: vit_b16 is vit_base_patch16_224.orig_in21k, swin_b is swin_base_patch4_window7_224.ms_in22k.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import timm

from karst_bench.adapt.fetch_weights import fetch_hub, fetch_url
from karst_bench.adapt.weights_file import check_weights, present_weights, read_sums
from karst_bench.cli.options import main
from karst_bench.errors import UserError


def run(options: Mapping[str, str]) -> int:
    """Fetch one tag, or check what is there. Returns the exit code."""
    root = Path(options.get("out", "weights"))
    if "tag" in options:
        file = fetch(options["tag"], root, options.get("url"))
        print(f"{file}: {file.stat().st_size} bytes, SHA-256 {check_weights(root, file)}")
        return 0
    if "check" not in options:
        raise UserError("no weights named: give timm's full name of them, architecture.tag")
    for name in read_sums(root):
        print(f"{name}: SHA-256 {check_weights(root, root / name)} as recorded")
    return 0


def fetch(tag: str, root: Path, url: str | None) -> Path:
    """The weights file of a tag, fetched unless it is there. Raises: UserError for an unknown tag or no network."""
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
    config = timm.get_pretrained_cfg(tag)
    if config.hf_hub_id:
        return fetch_hub(tag, config.hf_hub_id, root, ("model.safetensors", "config.json"))
    if config.url:
        return fetch_url(tag, config.url, root)
    raise UserError(f"{tag}: timm names no place to fetch it from; give url=ADDRESS")


if __name__ == "__main__":
    raise SystemExit(main(run, __doc__ or "", ("tag", "out", "url"), ("check",), bare="tag"))
