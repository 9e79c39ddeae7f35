"""`karst-bench completion`: what bash and zsh need, and what they ask for."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from karst_bench.errors import UserError


def completion(
    ctx: typer.Context,
    shell: Annotated[str, typer.Argument(help="bash or zsh.")],
    line: Annotated[str, typer.Argument(hidden=True)] = "",
) -> int:
    """Print what a shell needs to complete commands, keys and values. In bash: eval "$(karst-bench completion bash)"."""
    from karst_bench.cli.completion import SCRIPTS, completions

    if shell == "words":
        root = ctx.find_root().command
        print("\n".join(completions(line, lambda path: _words_of(root, path))))
        return 0
    if shell not in SCRIPTS:
        raise UserError(f"completion {shell}: choose {' or '.join(SCRIPTS)}")
    print(SCRIPTS[shell], end="")
    return 0


def _words_of(found: Any, path: Sequence[str]) -> list[str]:
    """The commands below `path`, or the options of the command that it is, as key=."""
    for name in path:
        found = getattr(found, "commands", {}).get(name, found)
    if getattr(found, "commands", None):
        return list(found.commands)
    return [f"{option.name}=" for option in found.params if option.name not in ("help", "words") and not option.hidden]
