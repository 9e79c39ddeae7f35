"""The processes of a launcher (hydra/launcher=joblib) stop together: the wish of one is the wish of all.

A signal reaches one process or each of them, as whoever sends it likes. They share a folder that an environment variable
names: `stop` holds the signal's number, and each run that failed leaves a file. A worker ends its run at a safe point and
says nothing more, so that the launcher hears from all of them instead of ending the others when one raises.
"""

import json
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from karst_bench import stopping
from karst_bench.errors import UserError
from karst_bench.stopping import Stopped, StoppedAtOnce

VARIABLE = "KARST_BENCH_LAUNCHER"
LOOK_S = 0.3


@dataclass(frozen=True)
class Launch:
    """The process that launches others, and the folder that it shares with them."""

    pid: int
    folder: Path

    @property
    def stop(self) -> Path:
        """The file that says so."""
        return self.folder / "stop"

    def wish(self) -> int | None:
        """The signal that asked one of them to stop, or None."""
        try:
            return int(self.stop.read_text())
        except (OSError, ValueError):  # not there, or a moment ago
            return None

    def failed(self, error: Exception) -> None:
        """Notes what a run raised."""
        trace = "".join(traceback.format_exception(error))
        said = {"is_users": isinstance(error, UserError), "text": str(error) or type(error).__name__, "trace": trace}
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix="failed-", delete=False) as file:
            json.dump(said, file)

    def failures(self) -> list[Exception]:
        """What runs raised, as errors that end the launcher as they would have ended their own process."""
        found: list[Exception] = []
        for path in sorted(self.folder.glob("failed-*")):
            said = json.loads(path.read_text())
            found.append(UserError(said["text"]) if said["is_users"] else RuntimeError(said["text"]))
            found[-1].add_note(said["trace"])  # debug=true shows it
        return found


@contextmanager
def launching() -> Iterator[Launch]:
    """Within, this process's wish to stop waits, and is its workers' too. Raises: Stopped at the end where any was asked to."""
    with tempfile.TemporaryDirectory(prefix="karst_bench-", ignore_cleanup_errors=True) as folder:
        launch = Launch(os.getpid(), Path(folder))
        os.environ[VARIABLE] = f"{launch.pid}:{folder}"
        stopping.share(launch.stop)
        try:
            with stopping.deferred():
                yield launch
        except Exception:
            stopping.safe_point()  # a worker that the signal ended before it listened breaks the launcher's pool
            raise
        finally:
            stopping.share(None)
            os.environ.pop(VARIABLE, None)
        if (number := stopping.asked() or launch.wish()) is not None:
            raise Stopped(number)


class Worker:
    """This process as a launcher's. at_work: whether it has a run."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.at_work = launch, False
        stopping.keep_listening()
        stopping.defer_for_good()  # it may be given another run after it was asked to stop
        stopping.share(launch.stop)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Hears what the others hear, and ends this process where its launcher ended and nothing is to be finished."""
        wish = None
        while True:
            if (wish := wish or self.launch.wish()) is not None:
                stopping.ask(wish)
            if os.getppid() != self.launch.pid:
                if wish is not None or not self.at_work:  # a second signal ended the launcher, or this run is over
                    os._exit(128 + (stopping.asked() or signal.SIGTERM))
                stopping.ask(signal.SIGTERM)
            time.sleep(LOOK_S)

    def work(self, run: Callable[[], None]) -> None:
        """Does the run; one that is stopped ends without a word, as the launcher has it when all have ended."""
        self.at_work = True
        try:
            stopping.safe_point()
            run()
        except Stopped:
            pass
        except StoppedAtOnce as stopped:
            os._exit(128 + stopped.number)
        finally:
            self.at_work = False


_WORKERS: dict[str, Worker] = {}  # of this process, by what the launcher said


def this_worker() -> Worker | None:
    """This process as a launcher's worker; None in the launcher itself, and in a process that another machine began."""
    said = os.environ.get(VARIABLE, "")
    pid, _, folder = said.partition(":")
    if pid != str(os.getppid()):
        return None
    if said not in _WORKERS:
        _WORKERS[said] = Worker(Launch(int(pid), Path(folder)))
    return _WORKERS[said]
