"""Where a number comes from: code, packages, machine type. No host name, user name or path goes into a record."""

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from karst_bench.records.facts import Provenance

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
def _code() -> tuple[str | None, bool | None]:
    """(commit, whether the sources differ from it), None where git does not say."""
    status = _git("status", "--porcelain", "--", *SOURCES)
    return _git("rev-parse", "HEAD"), None if status is None else bool(status)


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


@functools.cache
def _packages() -> dict[str, str]:
    found = {package.replace("-", "_"): _version(package) for package in PACKAGES}
    return {package: version for package, version in found.items() if version is not None}


def collect(
    *, device: str = "cpu", threads: int | None = None, cpu_capability: str | None = None, cuda: str | None = None
) -> Provenance:
    """The facts of code and machine a record carries; `device` is a name such as "cpu" or "NVIDIA H200". The last two are what
    torch says, which is not imported here.

    Takes about 20 ms the first time (two git calls), nothing after. A fact that cannot be found is absent.
    """
    commit, dirty = _code()
    return Provenance(
        commit=commit,
        dirty=dirty,
        version=_version("karst_bench"),
        python=platform.python_version(),
        packages=_packages(),
        device=device,
        threads=threads,
        cpu_model=_cpu_model(),
        cpu_count=os.cpu_count(),
        cpu_capability=cpu_capability,
        cuda=cuda,
        platform=f"{platform.system()} {platform.machine()} {'-'.join(platform.libc_ver())}".strip(),
    )
