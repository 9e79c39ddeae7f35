"""The list of planted faults keeps up with the code: every line of it is there to be changed, and tests to object."""

from pathlib import Path

from planted_faults import ROOT, faults


def test_every_fault_can_be_planted_and_names_tests_that_exist() -> None:
    assert len(faults()) >= 20
    for fault in faults():
        assert (ROOT / fault.file).read_text().count(fault.line) == 1, fault.title
        assert fault.line != fault.becomes and Path(ROOT, fault.tests[0]).exists(), fault.title
