"""One notation for every command: `key=value`, as runs are described, means what `--key value` means."""

import difflib
from typing import Any

from typer.core import TyperCommand

from karst_bench.cli.outcome import exit_code
from karst_bench.errors import UserError


class KeyValueCommand(TyperCommand):
    """A command with options of its own alone: a mistyped key is refused with the nearest name."""

    takes_overrides = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrites the words before they are parsed."""
        return super().parse_args(ctx, [option for word in args if (option := self._option(word)) is not None])

    def invoke(self, ctx: Any) -> None:
        """Turns what the command returns or raises into an exit code, and a raised error into a sentence."""
        code = exit_code(lambda: super(KeyValueCommand, self).invoke(ctx), debug=bool(ctx.find_root().obj))
        if code:
            ctx.exit(code)

    def _option(self, word: str) -> str | None:
        """The word as an option; None where it says of a flag what holds anyway."""
        key, equals, value = word.partition("=")
        if not equals or not key.replace(".", "").isidentifier():
            return word
        found: Any = next((p for p in self.params if key == p.name or f"--{key}" in p.opts), None)
        if found is None:
            if self.takes_overrides:
                return word
            known = [str(p.name) for p in self.params if p.name != "help"]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            options = f"Known: {', '.join(f'{name}=...' for name in known)}" if known else "There is none."
            raise UserError(f"{word!r} is not an option here{hint} {options}")
        if found.param_type_name == "argument":
            return value
        if getattr(found, "is_flag", False):
            if value.lower() not in ("true", "false"):
                raise UserError(f"{word}: say {key}=true or {key}=false")
            spelt = found.opts if value.lower() == "true" else found.secondary_opts
            return str(spelt[0]) if spelt else None
        return f"{found.opts[0]}={value}"


class OverrideCommand(KeyValueCommand):
    """A command that hands `key=value` on to the configuration, but for its own options."""

    takes_overrides = True
