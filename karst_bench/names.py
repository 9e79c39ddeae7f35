"""What may be a name: it ends in records, tables, commands and file names, some of them written by strangers."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

# Latin letters, digits and a few marks, so that no name leaves its folder, hides what it says or ends a command.
PLAIN = r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.+:@/-]{0,127}\Z"
_PLAIN = re.compile(PLAIN)
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), lone surrogates, line separators


def is_plain(name: object) -> bool:
    """Whether it is a text that may be a name."""
    return isinstance(name, str) and _PLAIN.match(name) is not None


def hidden_character(text: str) -> str | None:
    """The code of the first character that is not seen, or turns others around: `U+202E`; new lines and tabs are fine."""
    found = (c for c in text if unicodedata.category(c) in _HIDDEN and c not in "\n\t")
    return next((f"U+{ord(c):04X}" for c in found), None)


def escaped(text: str) -> str:
    """The text with what is not seen, or turns others around, as escapes: what somebody else wrote, for a terminal."""
    return "".join(c if hidden_character(c) is None else c.encode("unicode_escape").decode() for c in text)


def printable(text: str, limit: int = 160) -> str:
    """Text from outside made safe for one line of a terminal: ASCII, no control characters, bounded."""
    clean = "".join(c if c.isprintable() and c.isascii() else "?" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def texts(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in a configuration, keys of mappings too."""
    if isinstance(node, Mapping):
        for key, item in node.items():
            yield where, str(key)
            yield from texts(item, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list | tuple):
        for item in node:
            yield from texts(item, where)
    elif isinstance(node, str):
        yield where, node
