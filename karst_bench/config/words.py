"""The words of a command line before Hydra composes them: paths as they are typed, `+` and `~` held to what there is."""

import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from karst_bench.errors import UserError, nearest

# Keys whose value is a file or folder, besides paths.*; what is no path there is said by a name.
PATH_KEYS: dict[str, tuple[str, ...]] = {
    "dataset.root": (), "adapter": (), "images": (), "out": (), "backbone.weights": ("pretrained", "none"), "method.subnet": (),
}  # fmt: skip
OPEN = ("backbone.model_args", "dataset.hf", "dataset.tfds", "method.stages")  # nodes that take keys of others


def key_of(word: str) -> str:
    """`+recipe.lr=3` -> recipe.lr."""
    return word.partition("=")[0].lstrip("+~").strip()


def given_keys(overrides: Sequence[str]) -> set[str]:
    """Every key that the words give a value, the keys of `key={a:1,b:2}` as key.a and key.b too."""
    found = {key_of(word) for word in overrides}
    for word in overrides:
        if "={" in word and _readable(word):
            value = OverridesParser.create().parse_overrides([word])[0].value()
            found |= {f"{key_of(word)}.{name}" for name in value} if isinstance(value, dict) else set()
    return found


def is_path(key: str) -> bool:
    """Whether a key's value is a file or folder."""
    return key.startswith("paths.") or key in PATH_KEYS


def plain_words(overrides: Sequence[str]) -> list[str]:
    """The words with paths as Hydra reads them: `~` is the home folder, and what its grammar would trip over is quoted.

    A value with a comma is left alone, as several values are a sweep. A key below an open node is set or added, whichever it
    takes: `key`, `+key` and `++key` mean the same there.
    """
    return [_open(_plain(word)) for word in overrides]


def _open(word: str) -> str:
    key, (_, equals, value) = key_of(word), word.partition("=")
    below = any(key.startswith(f"{node}.") for node in OPEN) or (key in OPEN and value.startswith("{"))
    if not equals or word.startswith("~") or not below:
        return word
    return f"++{key}={value}"


def _plain(word: str) -> str:
    start, equals, value = word.partition("=")
    if not equals or not is_path(key_of(word)) or not value or value[0] in "'\"" or "${" in value:
        return word
    if value.startswith("~"):
        value = expanded_path(value)
    bare = f"{start}={value}"
    if "," in value or (value[0] not in "[{(" and _readable(bare)):
        return bare
    return f"{start}={_quoted(value, mark=chr(39))}"


def expanded_path(value: str) -> str:
    """A path with `~` or `~user` as the folder it stands for. Raises: UserError for a user that there is not."""
    try:
        return str(Path(value).expanduser())
    except RuntimeError as error:
        raise UserError(f"{value}: {error}; write the path in full, or ./{value} for a folder of that name") from error


def _readable(word: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([word])
    except HydraException:
        return False
    return True


def _quoted(value: str, mark: str = '"') -> str:
    inside = value.replace(f"\\{mark}", f"\\\\{mark}").replace(mark, f"\\{mark}")
    return f"{mark}{inside}\\{mark}" if inside.endswith("\\") else f"{mark}{inside}{mark}"


def quoting_hint(overrides: Sequence[str]) -> str | None:
    """One sentence on the first word that Hydra's grammar does not take, with the quotes it needs; None where all are read."""
    for word in overrides:
        start, equals, value = word.partition("=")
        if not key_of(word) or " " in key_of(word):
            return f"{word!r} names no key; the words of a command line are key=value"
        if _readable(word):
            continue
        if not equals:
            return f"{word!r} is no key=value; give the key a value"
        right = f"{start}={_quoted(value)}"
        shell = f"'{right}'" if "'" not in right else shlex.quote(right)
        return f"{word}: Hydra does not read this value as it stands; quote it for Hydra and the word for the shell: {shell}"
    return None


def comma_hint(overrides: Sequence[str]) -> str:
    """How to give a value that has a comma in it, where one of the words has."""
    word = next((word for word in overrides if "," in word and not word.startswith("hydra")), None)
    if word is None:
        return ""
    start, _, value = word.partition("=")
    return f"; a comma that is part of the value is quoted: '{start}={_quoted(value)}'"


def check_prefixes(overrides: Sequence[str], keys: Callable[[], Collection[str]], groups: Collection[str]) -> None:
    """`+key`, `++key` and `~key` are held to the keys there are, as `key` is. keys: every dotted key of the configuration.

    Raises: UserError for a key that would be dropped or missed, with what to write instead.
    """
    marked = [word for word in overrides if word[:1] in ("+", "~") and not key_of(word).startswith("hydra")]
    if not marked:
        return
    known = set(keys())
    for word in marked:
        key, (_, equals, value) = key_of(word), word.partition("=")
        if not key:
            raise UserError(f"{word!r} names no key; the words of a command line are key=value")
        if any(key.startswith(f"{node}.") for node in OPEN):
            continue
        wished = f"{key}={value}" if equals and not word.startswith("~") else f"{key}=..."
        if key.partition("@")[0] in groups:
            if word.startswith("~"):
                raise UserError(f"{word}: a run always has {key}; choose another with {wished}, or {key}=none where there is one")
            raise UserError(f"{word}: {key} is there already; leave out the {_mark(word)}: {wished}")
        if key not in known:
            raise UserError(f"{word}: unknown key {key}{nearest(key, sorted(known)) or '.'} A new key is added below"
                            f" {', '.join(OPEN)} alone")  # fmt: skip
        if word.startswith("~"):
            raise UserError(f"{word}: {key} cannot be left out, as a run needs it; give it another value: {wished}")
        if not word.startswith("++"):
            raise UserError(f"{word}: {key} is there already; leave out the +: {wished}")


def _mark(word: str) -> str:
    return "++" if word.startswith("++") else word[0]
