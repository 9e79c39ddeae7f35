"""How a command ends: exit codes, and one sentence instead of a traceback.

0 done, 1 a run failed, 2 bad input, 3 other workers hold what is left; 128 + the signal where one asked for a stop: 143 for
SIGTERM, 130 for Ctrl-C, 141 where whoever reads the output has left (`... | head`).
"""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from karst_bench import stopping
from karst_bench.errors import BusyError, UserError
from karst_bench.names import escaped
from karst_bench.stopping import Stopped, StoppedAtOnce

DONE, FAILED, BAD_INPUT, BUSY, STOPPED, UNREAD = 0, 1, 2, 3, 130, 141


def exit_code(act: Callable[[], object], *, debug: bool) -> int:
    """The code that `act` returns, if it is one, or that of what it raised, after saying so on stderr; debug raises instead."""
    try:
        with stopping.listening():
            result = act()
            sys.stdout.flush()
            stopping.forget()  # all is done: nothing was left to stop, and a requeued job would have nothing to do
        return result if isinstance(result, int) else DONE
    except (Stopped, StoppedAtOnce) as stopped:
        print(f"stopped; {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt as stopped:
        print("; ".join(["stopped", *map(str, stopped.args)]), file=sys.stderr)
        return STOPPED
    except UserError as error:
        if debug:
            raise
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return BUSY if isinstance(error, BusyError) else BAD_INPUT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whatever is left to say goes there without complaint
            return UNREAD
        if debug:
            raise
        print(f"error: {type(error).__name__}: {escaped(str(error))}\ndebug=true shows the traceback", file=sys.stderr)
        return FAILED


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has left."""
    with suppress(OSError, ValueError):
        seen = select.poll()
        seen.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in seen.poll(0))
    return False


def leave(code: int) -> NoReturn:
    """Ends the process. Where a second signal came, nobody is waited for: a pool whose processes are gone never ends."""
    if not stopping.hurried():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def asks_for_debug(words: list[str]) -> bool:
    """Whether a command line holds debug=true."""
    return any(word.replace(" ", "").lower() in ("debug=true", "++debug=true", "+debug=true") for word in words)
