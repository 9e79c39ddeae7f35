"""Typed access to the fields of a record that reports need beyond what records/schema.py has checked."""

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+/-]{0,79}")


class BadRecordError(ValueError):
    """Why a record cannot be shown; the text ends in one line of the report."""


def printable(text: str, limit: int = 160) -> str:
    """Text from outside made safe for one line of a terminal: ASCII, no control characters, bounded."""
    clean = "".join(c if c.isprintable() and c.isascii() else "?" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def need(node: Any, path: str, kind: type | tuple[type, ...]) -> Any:
    """The value at a dotted path, of the given type (a bool is no number)."""
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise BadRecordError(f"{path} is missing")
        node = node[part]
    if not isinstance(node, kind) or isinstance(node, bool):
        raise BadRecordError(f"{path} has the wrong type ({type(node).__name__})")
    return node


def may(node: Any, path: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """As `need`, but a missing or null value gives the default."""
    try:
        return need(node, path, (*kind, type(None)) if isinstance(kind, tuple) else (kind, type(None))) or default
    except BadRecordError as error:
        if str(error).endswith("is missing"):
            return default
        raise


def name(record: Mapping[str, Any], path: str, default: str | None = None) -> str:
    """A name that ends in tables, commands and file names: letters, digits and _.+/- only."""
    value = need(record, path, str) if default is None else may(record, path, str, default)
    if not NAME.fullmatch(value) or ".." in value:
        raise BadRecordError(f"{path} is not a plain name: {value[:40]!r}")
    return str(value)


def count(record: Mapping[str, Any], path: str) -> int:
    """A whole number >= 0."""
    value = int(need(record, path, int))
    if value < 0:
        raise BadRecordError(f"{path} = {value} is negative")
    return value


def positive(record: Mapping[str, Any], path: str) -> float | None:
    """A positive measurement, or None where it was not taken."""
    value = float(may(record, path, (int, float), 0))
    if value < 0:
        raise BadRecordError(f"{path} = {value:g} is negative")
    return value or None
