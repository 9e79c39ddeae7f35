"""The command line."""

import os
import sys
from types import TracebackType

# OpenMP's threads spin while they wait; beside busy processes that made KARST's demo 9 times slower (72 s for two epochs, 22
# by sleeping, measured beside three of them). Read when torch is loaded, which nothing does before this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _say_stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while libraries are imported, before anything handles it: a sentence, as at any other time."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped; nothing had begun", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _say_stopped
