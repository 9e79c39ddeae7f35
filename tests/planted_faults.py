"""python tests/planted_faults.py [words=part of a file's name]: do the tests object to one-line mistakes?

Each fault of planted_faults.toml is put into a copy of this repository, and the tests that should object run there, in a
process forked from one that has imported torch and timm. Printed: caught, or SURVIVED. Exit code 1 where one survived,
2 where a line of the list is no longer in its file, or its tests fail (or do not exist) without the fault, or hang with it.
"""

import os
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("karst_bench", "conf", "tests", "results", "scripts", "benchmarks", "docs", "pyproject.toml", "README.md")
PASSED, FAILED, NOT_SURE = 0, 1, 1000
LIMIT_S = 900  # of the tests of one fault


@dataclass(frozen=True)
class Fault:
    """One line of a file, what it becomes, and the tests (pytest's arguments) that should object."""

    file: str
    line: str
    becomes: str
    tests: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.file.removeprefix('karst_bench/')}: {self.line.strip()}  ->  {self.becomes.strip()}"

    @contextmanager
    def planted(self, root: Path) -> Iterator[None]:
        """The tree with the fault in it. Raises: ValueError unless the line is there exactly once."""
        path = root / self.file
        text = path.read_text()
        if text.count(self.line) != 1:
            raise ValueError(f"{self.title}: the line is there {text.count(self.line)} times")
        path.write_text(text.replace(self.line, self.becomes))
        try:
            yield
        finally:
            path.write_text(text)


def faults(words: Sequence[str] = ()) -> list[Fault]:
    """Those of the list whose file's name holds one of the words; all without words."""
    listed = tomllib.loads((ROOT / "tests" / "planted_faults.toml").read_text())["fault"]
    found = [Fault(item["file"], item["line"], item["becomes"], tuple(item["tests"].split())) for item in listed]
    return [fault for fault in found if not words or any(word in fault.file for word in words)]


def result(root: Path, tests: Sequence[str]) -> int:
    """pytest's exit code for these tests of the tree, in a process of its own without bytecode: two faults of one size
    and second would share it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.chdir(root)
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(root), *(place for place in sys.path if place and Path(place) != ROOT)]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    signal.alarm(LIMIT_S)
    try:
        imported = "ignore::pytest.PytestAssertRewriteWarning"  # torch's import brought plug-ins of pytest along
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", imported, *tests]))
    finally:
        os._exit(code)


def main(words: Sequence[str]) -> int:
    """The exit code; see above."""
    import timm  # noqa: F401  once, for all that are forked

    sure: dict[tuple[str, ...], bool] = {}
    codes = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__")
            (shutil.copytree(source, root / name, ignore=ignore) if source.is_dir() else shutil.copy(source, root / name))
        for fault in faults(words):
            if fault.tests not in sure:
                sure[fault.tests] = result(root, fault.tests) == PASSED
            try:
                with fault.planted(root):
                    code = result(root, fault.tests) if sure[fault.tests] else NOT_SURE
                    code = FAILED if code in (-signal.SIGABRT, -signal.SIGSEGV) else code  # it wrote where it must not
            except ValueError as error:
                print(f"no fault: {error}", flush=True)
                code = NOT_SURE
            said = {PASSED: "SURVIVED", FAILED: "caught  ", NOT_SURE: "not sure: its tests fail without it",
                    -signal.SIGALRM: "hangs   "}  # fmt: skip
            print(said.get(code, f"pytest ended with {code}"), fault.title, flush=True)
            codes.append(code)
    print(f"{codes.count(FAILED)} of {len(codes)} caught, {codes.count(PASSED)} survived")
    return 2 if set(codes) - {PASSED, FAILED} else int(PASSED in codes)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
