"""JSON from strangers, bounded before anything is built from it: size, digits, depth, doubled keys, no NaN."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from karst_bench.errors import UserError

MAX_BYTES = 4 * 1024 * 1024  # a real record holds 5-60 kB
MAX_INT = 2**63 - 1
MAX_DEPTH = 32
MAX_DIGITS = 40


class RecordError(UserError):
    """The text or value is no record that this version reads; the message says why."""


def need(condition: bool, reason: str) -> None:
    """Raises: RecordError with the reason unless the condition holds."""
    if not condition:
        raise RecordError(reason)


def check_plain(value: object, where: str, depth: int = 0) -> None:
    """Every number finite and within 64 bits, every key a string: what any JSON reader gives back unchanged.

    Raises: RecordError naming the first place that is not.
    """
    if not _is_plain(value, depth):  # the places' names are only made for what may be refused
        _check_places(value, where, depth)


def _check_places(value: object, where: str, depth: int) -> None:
    need(depth < MAX_DEPTH, f"{where[:200]} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            need(isinstance(key, str), f"{where}: key {key!r} is not a string")
            _check_places(item, f"{where}.{key[:60]}", depth + 1)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _check_places(item, f"{where}[{position}]", depth + 1)
    elif isinstance(value, float):
        need(math.isfinite(value), f"{where} is {value}, not a finite number")
    elif isinstance(value, int):
        need(abs(value) <= MAX_INT, f"{where} does not fit 64 bits")
    else:
        need(value is None or isinstance(value, str), f"{where} is a {type(value).__name__}, which JSON does not hold")


def _is_plain(value: object, depth: int) -> bool:
    """Whether a value holds nothing that `check_plain` refuses; False where only looking closer can tell."""
    if depth >= MAX_DEPTH:
        return False
    if value is None or isinstance(value, str):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -MAX_INT <= value <= MAX_INT
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    return isinstance(value, list) and all(_is_plain(item, depth + 1) for item in value)


def digest(fields: Mapping[str, object]) -> str:
    """SHA-256 over the values of a record, whatever the order of its keys and the spaces between them."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def reason(error: msgspec.ValidationError, fields: dict[str, Any]) -> str:
    """msgspec's "Expected `int` >= 0 - at `$.metrics.test_n`" as "metrics.test_n is '-1'; expected `int` >= 0"."""
    text, _, place = str(error).partition(" - at `$")
    text, place = text[:1].lower() + text[1:], place.strip(".`")
    if not text.startswith("expected"):
        return f"{place or 'record'}: {text}"
    found: Any = fields
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", place):
        found = found[int(index)] if index else found[name]
    return f"{place or 'record'} is {str(found)[:40]!r}; {text}"


def parse(data: bytes | str) -> Any:
    """The value of a JSON text. Raises: RecordError with the reason: not JSON, too large, NaN, a key twice, ..."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    need(len(raw) <= MAX_BYTES, f"{len(raw)} bytes; a record holds at most {MAX_BYTES}")
    try:
        return json.loads(
            raw.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"not whole JSON: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise RecordError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise RecordError(f"holds {name}, which is no JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    need(len(found) == len(pairs), "names one key twice")
    return found


def _integer(text: str) -> int:
    _check_digits(text)
    return int(text)


def _finite(text: str) -> float:
    _check_digits(text)
    value = float(text)
    if not math.isfinite(value):
        raise RecordError(f"holds {text}, which is not a finite number")
    return value


def _check_digits(text: str) -> None:
    """Refuses a digit string before it is converted: 10^400 as an integer is legal JSON and no measurement."""
    if len(text) > MAX_DIGITS:
        raise RecordError(f"holds a number of {len(text)} characters")
