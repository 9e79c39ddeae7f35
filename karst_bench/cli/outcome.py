"""How a command ends: exit codes, and one sentence instead of a traceback."""

import sys
from collections.abc import Callable

from karst_bench.errors import UserError

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def exit_code(act: Callable[[], object], *, debug: bool) -> int:
    """The code that `act` returns, if it is one, or that of what it raised, after saying so on stderr; debug raises instead."""
    try:
        result = act()
        return result if isinstance(result, int) else DONE
    except KeyboardInterrupt as stopped:
        print("; ".join(["stopped", *map(str, stopped.args)]), file=sys.stderr)
        return STOPPED
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error}\ndebug=true shows the traceback", file=sys.stderr)
        return FAILED


def asks_for_debug(words: list[str]) -> bool:
    """Whether a command line holds debug=true."""
    return any(word.replace(" ", "").lower() in ("debug=true", "++debug=true", "+debug=true") for word in words)
