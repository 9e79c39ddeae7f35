"""Files bent at random: bytes flipped, cut, doubled and blown up; and values of JSON that no program of ours wrote."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from karst_bench.tensors_file import LENGTH

ODD = (None, True, -1, 0, 1, 3.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**7, 2 * 10**8, 10**40, "", "0", "../../x",
       "/etc/passwd", "\u202egnp.x", "\0", "x" * 5000, "os.system", "karst_bench.methods.build.build_methods", "${oc.env:HOME}",
       [], {}, [[]], [1, 2, 3], {"name": "none"}, {"a": {"b": []}}, "!!python/object/apply:os.system [true]")  # fmt: skip


def bent(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four mistakes, half of them among the first 200, where files say what they are."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = rng.randrange(len(out)) if rng.random() < 0.5 else rng.randrange(min(len(out), 200))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at + 1 :]
        elif kind == 2:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        elif kind == 3:
            out[at : at + 8] = bytes(8)
        elif kind == 4:
            out[at : at + 8] = b"\xff" * 7 + b"\x7f"
        else:
            out[at : at + 1] = rng.choice((b"999999999999", b"[[[[", b"\xe2\x80\xae", b'"', b"-1", b"\n", b"{}"))
    return bytes(out)


def odd_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three of its parts replaced, taken away, doubled or renamed."""
    whole = {"whole": copy.deepcopy(value)}
    for _ in range(rng.randint(1, 3)):
        node: Any = whole
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.85:
                node = node[key]
                continue
            break
        _replace(node, key, rng)
        if "whole" not in whole or not isinstance(whole["whole"], dict | list) or not whole["whole"]:
            break
    return whole.get("whole")


def _replace(node: Any, key: Any, rng: random.Random) -> None:
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice(("name", "../x", "format", "\u202e"))] = node.pop(key)
    elif kind == 2:
        node[key] = [node[key]] * rng.choice((0, 2, 100))
    elif kind == 3 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
        node[key] = rng.choice((-1, 1000, 10**9)) * node[key]
    else:
        node[key] = copy.deepcopy(rng.choice(ODD))


def odd_json(data: bytes, rng: random.Random) -> bytes:
    """A file of JSON with odd values."""
    return json.dumps(odd_value(json.loads(data), rng)).encode(errors="surrogatepass")


def odd_header(data: bytes, rng: random.Random, seal: Callable[[dict[str, Any]], None] = lambda header: None) -> bytes:
    """A safetensors file with odd values in its header, or in the JSON that its texts hold. seal: mends checksums in it."""
    end = LENGTH + int.from_bytes(data[:LENGTH], "little")
    header = json.loads(data[LENGTH:end])
    texts = header.get("__metadata__", {})
    inside = [key for key, text in texts.items() if text[:1] in "{["]
    if inside and rng.random() < 0.8:
        key = rng.choice(inside)
        texts[key] = json.dumps(odd_value(json.loads(texts[key]), rng))
        seal(header)
    else:
        header = odd_value(header, rng)
    text = json.dumps(header).encode(errors="surrogatepass")
    return len(text).to_bytes(LENGTH, "little") + text + data[end:]
