"""The import rules of the house: data flows one way, and a name of an outside library has one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "karst_bench"

# What a folder may import of this package; whatever is not listed here stands at the top and may import all.
ALLOWED = {
    "nn": {"nn", "errors"},
    "methods": {"methods", "nn", "plugins", "errors"},
    "adapt": {"adapt", "methods", "nn", "files", "tensors_file", "download", "errors", "stopping"},
    "data": {"data", "files", "download", "own_sets", "errors"},
    "engine": {"engine", "methods", "nn", "errors", "stopping"},
    "records": {"records", "files", "tensors_file", "names", "errors"},
    "trackers": {"trackers", "errors"},
    "report": {"report", "records", "config", "files", "names", "errors"},
    "config": {"config", "tensors_file", "compat", "yaml_text", "engine", "files", "names", "plugins", "own_sets", "errors"},
    "run": {"run", "adapt", "methods", "nn", "data", "engine", "records", "trackers", "report", "config", "files", "tensors_file",
            "errors", "load_adapter", "stopping"},
}
TOP = {"__init__.py", "__main__.py", "compat.py", "download.py", "errors.py", "files.py", "names.py", "own_sets.py",
       "plugins.py", "stopping.py", "tensors_file.py", "yaml_text.py"}
# Where an outside library may be imported, by path prefix.
HOMES = {
    "timm": ("adapt/", "data/augment/policy.py"),
    "wandb": ("trackers/worker.py",),
    "hydra": ("cli/", "config/", "compat.py"),
    "omegaconf": ("cli/", "config/", "run/", "data/", "compat.py", "yaml_text.py"),
    "pandas": ("report/",),
    "sklearn": ("data/mini/",),
    "tensorflow_datasets": ("data/builders/", "data/sources/tfds.py"),
    "submitit": ("cli/clusters/",),
    "ray": ("cli/clusters/ray_tasks.py",),
    "optuna": ("run/tuning.py", "run/search_space.py", "run/journal.py"),
    "matplotlib": ("report/figures.py", "report/diagnostic_figures.py", "report/style.py", "data/mini/"),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a line comes from"
            # `from karst_bench import files` names a module, `from karst_bench import attach` the public API
            yield from (f"karst_bench.{a.name}" for a in node.names) if node.module == "karst_bench" else (node.module or "",)


def test_imports_follow_the_way_of_the_data() -> None:
    """One test for all files: as a test a file they took longer to collect and report than to read."""
    wrong = []
    for path in modules():
        inside = path.relative_to(PACKAGE)
        folder = inside.parts[0]
        for name in imports(path):
            root, _, rest = name.partition(".")
            if root == "karst_bench" and folder in ALLOWED and rest.split(".")[0] not in ALLOWED[folder]:
                wrong.append(f"{inside} imports {name}; {folder}/ may import {sorted(ALLOWED[folder])}")
            if root in HOMES and not inside.as_posix().startswith(HOMES[root]):
                wrong.append(f"{inside} imports {name}; its home is {HOMES[root]}")
    assert not wrong, "\n".join(wrong)


def test_nothing_stands_at_the_top_unlisted() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} <= TOP


def test_files_stay_short() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in modules()}
    long = {name: count for name, count in lines.items() if count > 300}
    assert not long, f"{long}: can the folder tell a reader where each half belongs?"


def test_no_path_of_a_machine_and_no_host_is_committed() -> None:
    import subprocess

    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not names:
        pytest.skip("not a git checkout")
    forbidden = ("/work" + "/", "../" + "shared", "/." + "library")
    for name in names:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".json", ".csv", ".html"} and path.is_file():
            text = path.read_text(errors="replace")
            assert not any(word in text for word in forbidden), f"{name} names a path outside the repository"


# Names that two files may both define: entry points, and the public API's doors to the function of the same name. The
# commands in cli/ are named for what they call.
SHARED_NAMES = {"main", "merge", "unmerge", "Batches"}


def test_public_names_are_unique() -> None:
    """One word, one meaning: a reader who searches for a name finds one definition."""
    homes: dict[str, list[str]] = {}
    for path in modules():
        inside = path.relative_to(PACKAGE)
        for node in ast.parse(path.read_text()).body if inside.parts[0] != "cli" else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(inside.as_posix())
    twice = {name: found for name, found in homes.items() if len(found) > 1 and name not in SHARED_NAMES}
    assert not twice, f"defined more than once: {twice}"
