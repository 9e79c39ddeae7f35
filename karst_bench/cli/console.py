"""What a person sees while something runs: the suite's log on standard error. Nothing else configures logging."""

import logging
import os
import sys

from karst_bench.names import escaped

LOGGER = "karst_bench"
COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}


class Console(logging.Handler):
    """Plain lines; warnings and worse say what they are. On a terminal a line replaces what a progress bar left there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record to stderr; what cannot be written is handled as logging handles it."""
        try:
            terminal = sys.stderr.isatty()
            kind = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            colour = COLOURS.get(record.levelno, "") if terminal and "NO_COLOR" not in os.environ else ""
            line = f"{colour}{kind}{escaped(self.format(record))}{colour and chr(27) + '[0m'}"
            print(f"\r\x1b[K{line}" if terminal else line, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def attach_console(*, debug: bool = False) -> None:
    """Shows the log from INFO on, with debug from DEBUG on; a second call changes the level only."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(handler, Console) for handler in logger.handlers):
        logger.addHandler(Console())
    level = logging.DEBUG if debug else logging.INFO
    logger.setLevel(level)
    for handler in logger.handlers:
        if isinstance(handler, Console):
            handler.setLevel(level)  # a run's log file takes every line, and the logger's own level with it
