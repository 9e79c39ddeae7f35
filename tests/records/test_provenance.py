"""Provenance: the facts that matter, and none that identify the machine's owner."""

import getpass
import json
import platform
from pathlib import Path

import msgspec
import torch

from karst_bench.records import provenance


def test_facts_are_plain_and_name_no_host():
    facts = provenance.collect(device="cpu", threads=1)
    assert (facts.device, facts.threads) == ("cpu", 1)
    for key in ("version", "python", "platform", "cpu_model", "cpu_count"):
        assert getattr(facts, key), key
    assert torch.__version__.startswith(facts.packages["torch"]) and "timm" in facts.packages
    text = json.dumps(msgspec.to_builtins(facts))
    assert platform.node() not in text
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert f'"{getpass.getuser()}"' not in text
