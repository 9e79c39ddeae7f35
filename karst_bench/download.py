"""Fetch one file: resumed where it was broken off, checked, and put in place whole."""

import logging
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from karst_bench import files
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
BLOCK = 1 << 20
STEP = 64 << 20  # bytes between two lines about how far a download is, at least; else a tenth of the file


def download(url: str, target: Path, *, sha256: str | None = None, timeout: float = 30.0) -> Path:
    """`url` (http, https or file) as the file `target`.

    What came in before a failure stays in <target>.part and is continued by the next call. sha256: of the whole file.
    Raises: UserError where it cannot be fetched, is a web page, or has another hash.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, timeout)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}; {_by_hand(target)}") from error
    except (urllib.error.URLError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url}: cannot be fetched ({reason}); without network access, {_by_hand(target)}") from error
    except OSError as error:
        raise UserError(f"{url}: cannot be fetched to {part} ({error}); start again to continue") from error
    if is_web_page(part):
        part.unlink()
        raise UserError(f"{url}: the server answers with a web page instead of the file; {_by_hand(target)}")
    found = files.sha256(part)
    if sha256 is not None and found != sha256:
        part.unlink()
        raise UserError(
            f"{url}: SHA-256 {found} where {sha256} was expected; what came was removed. The file was changed at its"
            f" source or on the way: try again, or {_by_hand(target)}"
        )
    part.replace(target)
    return target


def _fetch(url: str, part: Path, timeout: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond what is there: it is whole
            return
        raise
    with reply:
        resumed = have > 0 and getattr(reply, "status", None) == 206
        expected = reply.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
            copied, start = 0, have if resumed else 0
            total = start + int(expected or 0)
            said, step = start, max(STEP, total // 10)
            while block := reply.read(BLOCK):
                file.write(block)
                copied += len(block)
                if start + copied >= said + step:
                    said = start + copied
                    log.info("%s: %s of %s", part.stem, readable(said), readable(total))
    if expected is not None and copied < int(expected):
        raise urllib.error.URLError(f"broken off after {copied} of {expected} bytes; start again to continue")


def is_web_page(path: Path) -> bool:
    """Whether a file that should be something else is HTML: what a server sends beside status 200 when it refuses."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    return False


def readable(size: int) -> str:
    """Bytes as a person reads them; "size unknown" for 0."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes" if size else "size unknown"


def _by_hand(target: Path) -> str:
    return f"fetch it elsewhere and copy it to {target}"
