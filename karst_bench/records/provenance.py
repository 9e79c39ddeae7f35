"""Where a number comes from: code, packages, machine type. No host name, user name or path goes into a record."""

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "pillow",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "scikit-learn",
    "optuna",
    "wandb",
)
SOURCES = ("karst_bench", "conf", "run.py", "pyproject.toml")  # what decides a run; reports and records do not


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None  # an installed wheel: the version says what it is
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def _code() -> dict[str, Any]:
    status = _git("status", "--porcelain", "--", *SOURCES)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "version": _version("karst_bench"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def collect(*, device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """The facts of code and machine a record carries; `device` is a name such as "cpu" or "NVIDIA H200".

    Takes about 20 ms the first time (two git calls), nothing after. A fact that cannot be found is null.
    """
    torch = sys.modules.get("torch")  # not imported for its own sake: reports collect nothing and stay light
    facts = _code() | {"python": platform.python_version()}
    facts |= {package.replace("-", "_"): _version(package) for package in PACKAGES}
    facts |= {
        "device": device,
        "threads": threads,
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability() if torch else None,
        "cuda": torch.version.cuda if torch else None,
        "platform": f"{platform.system()} {platform.machine()} {'-'.join(platform.libc_ver())}".strip(),
    }
    return facts
