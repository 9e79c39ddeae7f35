"""The one exception a user is meant to read, and the name that was probably meant."""

import difflib
import traceback
from collections.abc import Sequence


class UserError(Exception):
    """What went wrong, where, both values, and the remedy; the command line prints it without a traceback, exit code 2."""


def nearest(word: str, valid: Sequence[str]) -> str:
    """`; did you mean X?` with the valid name that is most like the word, or nothing."""
    tails = {name.rpartition("/")[2]: name for name in valid}
    near = [name for name in valid if name.lower() == word.lower()]
    near = near or difflib.get_close_matches(word, valid, 1, 0.6)
    near = near or [tails[t] for t in difflib.get_close_matches(word, list(tails), 1, 0.6)]
    return f"; did you mean {near[0]}?" if near else ""


class MisfitError(UserError):
    """What a backbone lacks for a method, and what would be needed; attaching adds which method and which model."""

    def of(self, method: str, model: str) -> UserError:
        """The whole sentence."""
        return UserError(f"{method} cannot be attached to this {model}: {self}")


class BusyError(UserError):
    """Another process is running this cell; a sweep passes it over and visits it again at the end."""


class LostLeaseError(BusyError):
    """This process slept past its lease, and another took the cell over; nothing of ours may be written any more."""


class DiskError(UserError):
    """A file cannot be written: the disk is full, read-only or not ours."""


class CheckpointError(UserError):
    """A checkpoint is damaged, or of another run; whoever meets one says so and starts anew."""


def briefly(error: BaseException) -> str:
    """`ValueError: the first line of what it says`, for a note; at most 200 characters of it."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def let_go(error: BaseException) -> None:
    """Frees what the frames of an exception hold, such as a model and its memory on a GPU; its traceback can still be shown."""
    chain: list[BaseException | None] = [error]
    while chain:
        if (one := chain.pop()) is not None:
            traceback.clear_frames(one.__traceback__)
            chain += [one.__cause__, one.__context__]
