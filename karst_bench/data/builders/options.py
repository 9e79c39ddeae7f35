"""Which options of `prepare` go together: refused at once rather than ignored."""

from collections.abc import Collection
from pathlib import Path

from karst_bench.data.builders.staging import known_encoding
from karst_bench.errors import UserError

SOURCES = ("raw", "zip", "tfds")


def check_options(
    suites: Collection[str],
    source: str,
    encoding: str,
    archive: Path | str | None,
    to: str | None,
    lists: Path | str | None,
) -> None:
    """Raises: UserError naming the option that is unknown, or that the others leave without a meaning.

    suites: of the sets that are asked for.
    """
    if source not in SOURCES:
        raise UserError(f"source={source}: choose from {', '.join(SOURCES)}")
    if to not in (None, "hf"):
        raise UserError(f"to={to}: only hf (parquet files in the layout of the Hugging Face hub) is known")
    known_encoding(encoding)
    other = set(suites) - {"vtab", "fgvc"}
    if other:
        raise UserError(f"{min(other)} sets are not prepared here; few-shot sets are placed by karst-bench data fewshot")
    if "fgvc" in suites and (source != "raw" or to is not None):
        option = f"source={source}" if source != "raw" else f"to={to}"
        raise UserError(f"{option}: is for the tasks of VTAB-1K; fgvc sets are built from their archives alone, source=raw")
    if encoding != "png" and (source != "raw" or suites == {"fgvc"}):
        kept = "fgvc images" if suites == {"fgvc"} else f"source={source}"
        raise UserError(f"encoding={encoding}: {kept} are left as they are stored; leave encoding out")
    if lists is not None and "fgvc" not in suites:
        raise UserError(f"lists={lists}: VPT's lists are those of fgvc sets, and tasks= names none of them")
    if lists is not None and not Path(lists).exists():
        raise UserError(f"lists={lists}: no such file or folder")
    if source == "tfds" and (archive is not None or to is not None):
        option = f"to={to}" if archive is None else f"archive={archive}"
        raise UserError(f"{option}: tensorflow-datasets fetches and writes its own files; leave it out")
    if source == "raw" and archive is not None and not Path(archive).exists():
        web = "://" in str(archive) or str(archive) in ("hub", "drive")
        hint = "; addresses are taken with source=zip alone" if web else ""
        raise UserError(f"archive={archive}: no such file or folder{hint}")
