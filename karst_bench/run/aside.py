"""What a record says beside its result."""

import logging
from collections.abc import Callable
from typing import TypeVar

from karst_bench.errors import briefly

log = logging.getLogger(__name__)

T = TypeVar("T")


class Aside:
    """Counts and files that a finished training must not be lost to: where one cannot be had, a note says so. notes: those."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def of(self, what: str, count: Callable[[], T], otherwise: T) -> T:
        """What count() gives, or `otherwise` and a note."""
        try:
            return count()
        except Exception as error:  # whatever a counter, a foreign block or a parameter of one's own stumbles over
            note = f"{what} could not be had: {briefly(error)}"
            log.warning("%s; the run goes on", note)
            self.notes.append(note)
            return otherwise
