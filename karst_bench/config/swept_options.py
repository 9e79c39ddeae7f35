"""Keys below a swept option (`-m method=spt_lora,spt_adapter method.budget=30000`): held to every option, set in every run.

Hydra composes a sweep's base without its swept words, so a key that only they make valid would be unknown there. As a choice
of one value it is a word of the runs alone.
"""

from collections.abc import Sequence

from karst_bench.config.compose import composed
from karst_bench.config.messages import GROUPS, friendly
from karst_bench.config.option_files import options
from karst_bench.config.sweeps import axes, is_swept, jobs
from karst_bench.config.words import key_of
from karst_bench.errors import UserError


def left_to_runs(overrides: Sequence[str]) -> list[str]:
    """The words with keys below a group as choices, where an option of any group is swept."""
    if not any(key in GROUPS for key in axes(overrides)):
        return list(overrides)
    return [_choice(word) if _is_below(word) and not is_swept(word) else word for word in overrides]


def group_words(overrides: Sequence[str]) -> list[str]:
    """The options of the first run."""
    return [word for word in jobs(overrides)[0] if key_of(word) in GROUPS]


def check_swept_options(overrides: Sequence[str]) -> None:
    """Composes the first run with each option of each swept group, where words set keys below groups.

    Raises: UserError naming the options that do not take them, before anything runs.
    """
    if not any(map(_is_below, overrides)):
        return
    first = jobs(overrides)[0]
    for group, swept in axes(overrides).items():
        if group not in GROUPS:
            continue
        failed = {option: error for option in swept if (error := _error(first, group, option))}
        if failed:
            taken = ",".join(option for option in swept if option not in failed)
            hint = f" These words hold for {group}={taken}: run the others apart, without them" if taken else ""
            raise UserError(f"{group}={','.join(failed)}: {next(iter(failed.values()))}.{hint}")


def _error(first: Sequence[str], group: str, option: str) -> str:
    """Why the first run does not compose with that option; nothing where it does."""
    words = [f"{group}={option}" if key_of(word) == group else word for word in first]
    try:
        with friendly(words, composed, options):
            composed(words)
    except UserError as error:
        return str(error).rstrip(".")
    return ""


def _is_below(word: str) -> bool:
    group, dot, _ = key_of(word).partition(".")
    return bool(dot) and group in GROUPS and not word.startswith("~")


def _choice(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}=choice({value})" if value else word
