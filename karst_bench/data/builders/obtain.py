"""The original files of a set: found where a user has them, else fetched; their sizes and hashes checked."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from karst_bench import files
from karst_bench.data.builders.raw import Archive
from karst_bench.data.sources.manifest import UsedArchive
from karst_bench.download import download, is_web_page, readable
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
DOWNLOADS = "archives"  # below root


def obtain(
    name: str, archives: Sequence[Archive], *, given: Path | None, root: Path, instructions: str = ""
) -> dict[str, Path]:
    """{name of the archive: where it is}: in `given` (a file or folder of the user's), in root/archives, or fetched there.

    What came of a broken-off download is continued. Raises: UserError where one is missing and has no address, or cannot
    be fetched; all that are missing are named.
    """
    found = {archive.name: _find(name, archive, archives, given, root) for archive in archives}
    absent = [archive for archive in archives if found[archive.name] is None]
    by_hand = [archive for archive in absent if not archive.url]
    if by_hand:
        looked = [str(place) for place in _places(name, given, root)]
        names = ", ".join(" or ".join((archive.name, *archive.also)) for archive in by_hand)
        raise UserError(
            f"{name}: missing {names}; looked in {', '.join(looked)}. {instructions}. Then give archive=FOLDER."
        )
    sizes = [archive.size for archive in absent if archive.size]
    if absent:
        lacking = f" (not in {given})" if given is not None else ""
        what = f"{len(absent)} file{'s' if len(absent) > 1 else ''}{lacking}, {readable(sum(sizes))}"
        log.info("%s: fetching %s, to %s", name, what, root / DOWNLOADS)
    for archive in absent:
        log.info("%s: %s (%s) from %s", name, archive.name, readable(archive.size or 0), archive.url)
        found[archive.name] = download(archive.url, root / DOWNLOADS / archive.name, sha256=archive.sha256)
    return {key: path for key, path in found.items() if path is not None}


def check(name: str, archives: Sequence[Archive], found: dict[str, Path], *, verify: bool) -> tuple[UsedArchive, ...]:
    """What goes into the manifest. verify: refuse files that differ from the published ones.

    An unpacked folder has no hash to compare. Raises: UserError for web pages and, with `verify`, for other files.
    """
    used = []
    for archive in archives:
        path = found[archive.name]
        if path.is_dir():
            used.append(UsedArchive(path.name, 0, "", None))
            continue
        if is_web_page(path):
            raise UserError(
                f"{path}: is a web page, not {archive.name}; fetch the file by hand and give archive=FOLDER"
            )
        size = path.stat().st_size
        published = archive.sha256 if path.name == archive.name else None
        known = None if published is None else size == archive.size
        digest = ""
        if known is not False:
            log.info("%s: reading %s (%s) once for its hash", name, path, readable(size))
            digest = files.sha256(path)
            known = None if published is None else digest == published
        if known is False and verify:
            raise UserError(
                f"{path}: {size} bytes, SHA-256 {digest or 'not read'}, where {archive.name} is published with"
                f" {archive.size} bytes and {archive.sha256}. Fetch it again; or say verify=false to build from it all"
                " the same, and every record will say so."
            )
        used.append(UsedArchive(path.name, size, digest or files.sha256(path), known))
    return tuple(used)


def _places(name: str, given: Path | None, root: Path) -> Iterator[Path]:
    for folder in (given, root / DOWNLOADS):
        if folder is not None:
            yield folder
            yield folder / name.rpartition("/")[2]


def _find(name: str, archive: Archive, archives: Sequence[Archive], given: Path | None, root: Path) -> Path | None:
    names = (archive.name, *archive.also)
    for place in _places(name, given, root):
        for option in names:
            if (place / option).exists():
                return place / option
    # last, the file or folder itself: a folder may bear the name of the set and hold its archive
    if given is not None and given.exists() and (given.name in names or (given.is_file() and len(archives) == 1)):
        return given
    return None
