"""Values on their way into the page: numbers at the precision of the tables' CSV, text whose every character can be seen."""

import unicodedata
from collections.abc import Mapping

LONGEST = 400
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # control, direction, surrogates, private, unassigned, separators


def visible(text: str, limit: int = LONGEST) -> str:
    """Text in which nothing hides: what has no picture or turns the direction of writing stands as U+202E; bounded."""
    shown = "".join(f"[U+{ord(c):04X}]" if unicodedata.category(c) in UNSEEN else c for c in text[: limit + 1])
    return shown if len(text) <= limit and len(shown) <= 8 * limit else shown[: limit - 1] + "…"


def rounded(value: float | None, digits: int = 6) -> float | None:
    """A number at `digits` significant digits, so that the last bits of a library never show; None stays None."""
    return None if value is None else float(f"{value:.{digits}g}")


def plain(value: object, digits: int = 6) -> object:
    """A JSON value with every text made visible and every number rounded; keys too."""
    if isinstance(value, Mapping):
        return {visible(str(key)): plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        return rounded(value, digits)
    return visible(value) if isinstance(value, str) else value
