"""The scripts' command lines: `key=value` words as in run.py, `--flag` for switches, help when nothing is given."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence

from karst_bench.errors import UserError

HELP = {"-h", "--help", "help"}


def parse(
    words: Sequence[str], keys: Sequence[str], flags: Sequence[str] = (), bare: str | None = None
) -> dict[str, str]:
    """{key: value} of the words; a flag's value is "true"; a word by itself is the value of the key `bare`.

    Raises: UserError for a word that is none of them.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("--") and word[2:] in flags:
            found[word[2:]] = "true"
        elif equals and key in keys:
            found[key] = value
        elif bare is not None and not equals and not word.startswith("-") and bare not in found:
            found[bare] = word
        else:
            near = difflib.get_close_matches(key.lstrip("-"), [*keys, *flags], n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            known = ", ".join([*(f"{name}=..." for name in keys), *(f"--{name}" for name in flags)])
            raise UserError(f"{word!r} is not an option here{hint} Known: {known}")
    return found


def count(key: str, text: str) -> int:
    """A whole number of at least 1. Raises: UserError."""
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{key}={text} is not a whole number of at least 1")
    return int(text)


def main(
    run: Callable[[Mapping[str, str]], int],
    usage: str,
    keys: Sequence[str],
    flags: Sequence[str] = (),
    *,
    bare: str | None = None,
) -> int:
    """Run a script: its help without arguments, a user's error as one line and exit code 2."""
    words = sys.argv[1:]
    if not words or HELP & set(words):
        print(usage.strip())
        return 0
    try:
        return run(parse(words, keys, flags, bare))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
