"""`karst-bench weights fetch`: a backbone's weights by timm's full name, or a check of those that are there."""

from pathlib import Path

from karst_bench.adapt.fetch_weights import fetch_tag
from karst_bench.adapt.weights_file import check_weights, read_sums
from karst_bench.errors import UserError


def fetch(tag: str | None, root: Path, *, url: str | None, check: bool) -> None:
    """Fetches one tag, or checks all that is recorded, and prints each file's hash. Raises: UserError."""
    if tag is not None:
        file = fetch_tag(tag, root, url)
        print(f"{file}: {file.stat().st_size} bytes, SHA-256 {check_weights(root, file)}")
    elif not check:
        raise UserError("no weights named: give timm's full name of them, architecture.tag")
    else:
        if not (known := read_sums(root)):
            raise UserError(f"{root}: no weights were fetched to here, so there is none to check; --out names another folder")
        for name in known:
            print(f"{name}: SHA-256 {check_weights(root, root / name)} as recorded")
