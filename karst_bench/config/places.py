"""What a configuration says of this machine: paths in full, and the precision that its processor computes in."""

import os
import subprocess
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from karst_bench.config.words import PATH_KEYS, expanded_path

BF16_SINCE = 8.0  # compute capability of the first NVIDIA GPUs with bf16


def with_paths(cfg: DictConfig) -> DictConfig:
    """The configuration with every path in full: `~` expanded, relative ones from the folder the command was given in.

    What cannot be worked out is left to `resolve`, which says so.
    """
    for key in [*(f"paths.{name}" for name in cfg.paths), *PATH_KEYS]:
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        value = None if node is None else _value(node, last)
        if isinstance(value, str) and value and value not in PATH_KEYS.get(key, ()):
            node[last] = os.path.abspath(expanded_path(value))  # noqa: PTH100 (a link in it stays a link)
    return cfg


def _value(node: DictConfig, key: str) -> object:
    """None where there is no such key, or its value cannot be worked out."""
    try:
        return node[key]
    except OmegaConfBaseException:
        return None


def native_precision(device: str) -> str:
    """What precision=auto stands for: bf16 where the processor of this device has it, else fp32; asked without torch."""
    if device != "cpu" and (capability := _gpu_capability()) is not None:
        return "bf16" if capability >= BF16_SINCE else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this machine's CPU multiplies bf16 itself (AMX or AVX512-bf16); elsewhere it is emulated, several times slower."""
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _gpu_capability() -> float | None:
    """The compute capability of the first NVIDIA GPU; None where there is none to be seen."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not Path("/proc/driver/nvidia/version").is_file():
        return None
    try:
        words = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout
        return float(said.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return BF16_SINCE  # a GPU that does not say what it is
