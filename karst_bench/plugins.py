"""Methods and datasets outside this repository: folders named by the environment variable KARST_BENCH_PLUGINS.

A plug-in folder has conf/ (method/foo.yaml, dataset/mine/bar.yaml, ...), which joins the suite's own configuration, and
methods/ (foo.py), whose files are found as karst_bench.methods.foo: `_target_` stays within this package.
"""

import os
from pathlib import Path

from karst_bench.errors import UserError

VARIABLE = "KARST_BENCH_PLUGINS"


def plugin_folders() -> list[Path]:
    """The folders in order. Raises: UserError for one that has neither conf/ nor methods/."""
    named = [Path(word).expanduser().resolve() for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word]
    for folder in named:
        if not ((folder / "conf").is_dir() or (folder / "methods").is_dir()):
            raise UserError(f"{VARIABLE}={folder}: no such plug-in; it needs conf/ with YAML files, methods/ with Python files")
    return named


def plugin_conf() -> list[Path]:
    """The conf/ folders of the plug-ins that have one."""
    return [folder / "conf" for folder in plugin_folders() if (folder / "conf").is_dir()]
