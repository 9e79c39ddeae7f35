"""What a person sees of the log."""

import logging

import pytest

from karst_bench.cli import console
from karst_bench.run.logs import run_log


@pytest.mark.parametrize("debug", [False, True])
def test_lines_for_the_run_log_stay_off_the_console(tmp_path, monkeypatch, capsys, debug):
    """A run's file takes every line; the console takes those from INFO on, unless debug=true."""
    monkeypatch.setattr(console, "LOGGER", "karst_bench.tests_console")
    monkeypatch.setattr(logging.getLogger("karst_bench"), "handlers", [])  # a command that ran here before left its console
    logger = logging.getLogger("karst_bench.tests_console")
    console.attach_console(debug=debug)
    try:
        with run_log(tmp_path, "mini", "0" * 16):
            logger.setLevel(logging.DEBUG)  # as run_log does to the package's own
            logger.info("a line for a person")
            logger.debug("a detail")
    finally:
        logger.handlers.clear()
    shown = capsys.readouterr().err
    assert "a line for a person" in shown and ("a detail" in shown) == debug
    (file,) = tmp_path.rglob("*.log")
    assert "a detail" in file.read_text()
