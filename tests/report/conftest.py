"""Oracles: libraries that compute the same statistics, of the extra [oracles]."""

import importlib
import importlib.metadata
import os
from types import ModuleType

import pytest


def _needed() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


@pytest.fixture
def oracle():
    """oracle(distribution, module): the module. Where it is not installed the test skips, and in CI (CI=true) it fails; where
    it is installed and does not import, it fails: a check that does not run must be seen."""

    def load(distribution: str, module: str) -> ModuleType:
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            message = f"{distribution} is not installed (pip install karst_bench[oracles]): nothing was compared"
            pytest.fail(message) if _needed() else pytest.skip(message)
        try:
            return importlib.import_module(module)
        except Exception as error:
            pytest.fail(f"{distribution} is installed, but {module} does not import: {type(error).__name__}: {error}")

    return load
