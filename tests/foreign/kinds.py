"""What fuzzing is made of: a kind of file, a real model, hostile pickles, and what may come of reading."""

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import timm
import torch
from torch import nn

from karst_bench.errors import UserError

READ, ANEW = "read", "made anew"
ARCHITECTURE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
TINY = ["method=bitfit", "dataset=mini/digits", "backbone.weights=none", "recipe.epochs=1", "recipe.batch=500", "threads=1",
        "precision=fp32",
        "backbone.model_args={" + ",".join(f"{key}:{value}" for key, value in ARCHITECTURE.items()) + "}"]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """files: whole ones, which are read; bends: ways to bend them; read: reads one, given its bytes, and says READ or ANEW (what
    it held is computed again), or raises UserError; hostile: more files, as they are; heavy: makes more that take seconds."""

    files: Sequence[bytes]
    bends: Sequence[Callable[[bytes, Random], bytes]]
    read: Callable[[bytes], str]
    hostile: Sequence[bytes] = ()
    heavy: Callable[[], Sequence[bytes]] = tuple


class Runs:
    """What a hostile pickle does to whoever unpickles it: it leaves a file."""

    def __init__(self, place: Path, *, by_shell: bool = False) -> None:
        self.place, self.by_shell = place, by_shell

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.place}'",)) if self.by_shell else (Path.touch, (self.place,))


def planted(folder: Path) -> Path:
    """The file that is there if code of a stranger ran."""
    return folder / "code ran"


def vit() -> nn.Module:
    """A real timm ViT of 15 thousand weights, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", num_classes=3, **ARCHITECTURE)


def untouched(read: Callable[[nn.Module], object], net: nn.Module) -> str:
    """Reads into a copy of the model; where that is refused, the copy is as it was."""
    mine = copy.deepcopy(net)
    try:
        read(mine)
    except UserError:
        assert _values(mine) == _values(net), "the model was touched, then the file refused"
        raise
    return READ


def _values(net: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in net.state_dict().items()}


def put(path: Path, data: bytes) -> None:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def places(folder: Path) -> list[str]:
    """The words that keep a run in a folder."""
    return [f"paths.{key}={folder / key}" for key in ("results", "cache", "outputs")]


class Warned(logging.Handler):
    """`with Warned() as lines:` the suite's warnings within."""

    def __enter__(self) -> list[str]:
        self.lines: list[str] = []
        logging.getLogger("karst_bench").addHandler(self)
        return self.lines

    def __exit__(self, *_: object) -> None:
        logging.getLogger("karst_bench").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.lines.append(record.getMessage())
