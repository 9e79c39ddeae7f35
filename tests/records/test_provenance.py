"""Provenance: the facts that matter, and none that identify the machine's owner."""

import getpass
import json
import platform
from pathlib import Path

from karst_bench.records import provenance


def test_facts_are_plain_and_name_no_host():
    facts = provenance.collect(device="cpu", threads=1)
    for key in ("commit", "dirty", "version", "python", "torch", "timm", "device", "threads", "platform", "cpu_model"):
        assert key in facts
    text = json.dumps(facts)
    assert platform.node() not in text
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert f'"{getpass.getuser()}"' not in text
