"""Completion for shells: commands, their options, groups and their options, keys and their values, files."""

import shlex
from collections.abc import Callable, Iterable, Sequence

from karst_bench.config.compose import composed
from karst_bench.config.messages import GROUPS, keys_of
from karst_bench.config.option_files import options
from karst_bench.config.settings import CHOICES
from karst_bench.config.words import is_path

TAKES_OVERRIDES = ("run", "tune", "sweep", "status")
BASH = r"""# karst-bench completion bash, for karst-bench, run.py and python run.py:  eval "$(karst-bench completion bash)"
_karst_bench() {
    local line="${COMP_LINE:0:COMP_POINT}" word found
    case "${COMP_WORDS[0]##*/}" in
        python*) [[ "${COMP_WORDS[1]##*/}" == run.py ]] || return 0 ;;
    esac
    word="${line##* }"
    found="$(karst-bench completion words "$line" 2>/dev/null)" || return 0
    COMPREPLY=()
    while IFS= read -r each; do
        [[ -n "$each" ]] && COMPREPLY+=("${each#"${word%"${word##*[=:]}"}"}")
    done <<< "$found"
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _karst_bench karst-bench run.py ./run.py
complete -p python >/dev/null 2>&1 || complete -o default -o bashdefault -F _karst_bench python python3
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + BASH.replace("compopt -o nospace", "true")
SCRIPTS = {"bash": BASH, "zsh": ZSH}


def completions(line: str, commands: Callable[[Sequence[str]], Iterable[str]]) -> list[str]:
    """What the last word of a command line may become, in full. commands: what a command's words may be (its own options)."""
    words = _split(line)
    word = "" if line.endswith(" ") or not words else words.pop()
    while words and not words[0].rpartition("/")[2].startswith(("karst-bench", "run.py")):
        words.pop(0)
    if not words:
        return []
    program, *given = words
    direct = program.endswith("run.py")
    path = [each for each in given if "=" not in each and not each.startswith("-")]
    takes = direct or bool(path and path[0] in TAKES_OVERRIDES)
    found = [] if direct else list(commands(path))
    if takes:
        found += _overrides(word, [each for each in given if "=" in each])
    return sorted(each for each in dict.fromkeys(found) if each.startswith(word))


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an open quote
        return line.split()


def _overrides(word: str, given: Sequence[str]) -> list[str]:
    """Keys with a `=`, and the values of the one that is being given; none for a path, which the shell completes."""
    start, equals, value = word.partition("=")
    key = start.lstrip("+~")
    if not equals:
        chosen = [each for each in given if each.partition("=")[0] in GROUPS and "," not in each]
        return [f"{each}=" for each in dict.fromkeys([*GROUPS, *keys_of(composed(chosen))])]
    if is_path(key):
        return []
    before = f"{value.rpartition(',')[0]}," if "," in value else ""
    values = options(key) if key in GROUPS else CHOICES.get(key, ())
    return [f"{start}={before}{each}" for each in values]
