"""What a command loads: nothing heavy before it is needed, and the Python API nothing that it can do without."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from karst_bench import compat, yaml_text
from karst_bench.cli.app import app, main
from karst_bench.config import compose
from karst_bench.config.sweeps import axes, expand

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "timm", "tensorflow_datasets", "wandb", "matplotlib", "optuna")
COMMANDS = """
import json, sys
from karst_bench.cli.app import main
heavy, results = json.loads(sys.argv[1]), sys.argv[2]
for words in json.loads(sys.argv[3]):
    code = main(words)
    print(json.dumps([" ".join(words), code, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""
SCRIPTS = """
import json, runpy, sys
heavy = json.loads(sys.argv[1])
for path in sys.argv[2:]:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stopped:
        print(json.dumps([path, stopped.code, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""
FIRST_LINE = """
import builtins, logging, sys
from karst_bench.cli.app import main
real = builtins.__import__
def guarded(name, *rest, **more):
    if name.partition(".")[0] in ("torch", "timm"):
        print("IMPORTED", name, file=sys.stderr)
        raise SystemExit(7)
    return real(name, *rest, **more)
builtins.__import__ = guarded
sys.exit(main(["run", "method=lora", "dataset=mini/digits", "paths.results=" + sys.argv[1], "paths.outputs=" + sys.argv[1]]))
"""
HOST = """
import copy, logging, sys
for name in ("wandb", "matplotlib", "tensorflow_datasets", "optuna", "pandas", "sklearn"):
    sys.modules[name] = None  # importing it is an ImportError

import hydra, timm, torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

ConfigStore.instance().store(name="base_schema", node={"theirs": 1})
ConfigStore.instance().store(group="method", name="lora", node={"name": "the host's lora"})
OmegaConf.register_new_resolver("theirs", lambda: 1)
logging.basicConfig(level=logging.ERROR)
with hydra.initialize_config_dir(sys.argv[1], version_base=None):
    def state():
        loggers = {name: (log.level, list(log.handlers), log.disabled) for name, log in logging.root.manager.loggerDict.items()
                   if isinstance(log, logging.Logger) and not name.startswith("karst_bench")}
        return (GlobalHydra.instance().hydra, copy.deepcopy(ConfigStore.instance().repo), dict(BaseContainer._resolvers),
                logging.root.level, list(logging.root.handlers), loggers, torch.get_num_threads(), torch.get_rng_state().tolist())
    import karst_bench
    import karst_bench.adapt.attach, karst_bench.config.compose, karst_bench.methods.build
    before = state()
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_classes=4)
    net = karst_bench.attach(net, "lora", also="vpt_deep", seed=1)
    karst_bench.save_adapter(net, sys.argv[2])
    after = state()
    assert [i for i, (a, b) in enumerate(zip(before, after)) if i != 7 and a != b] == []
    assert not logging.getLogger("karst_bench").handlers and logging.getLogger("karst_bench").propagate
    assert hydra.compose("config").mine == 1
"""


def python(program: str, *arguments: str, code: int = 0) -> str:
    """What a program said on stderr in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program, *arguments], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr


def test_help_typos_bad_values_and_states_import_nothing_heavy(tmp_path: Path) -> None:
    where = [f"paths.results={tmp_path}", f"paths.outputs={tmp_path}"]
    commands = {
        0: [*helps(typer.main.get_command(app)), ["run", "--cfg", "job"], ["status", "suite=mini", *where],
            ["sweep", "table1", "suite=mini", *where]],
        2: [["run", "method=kars"], ["run", "sed=1"], ["run", "recipe.lr=abc"], ["run", "seed=abc"], ["run", "recipe.epochs=0"],
            ["run", "+recipe.lrs=1"], ["run", "threads=0"]],
    }  # fmt: skip
    words = [word for group in commands.values() for word in group]
    said = python(COMMANDS, json.dumps(HEAVY), str(tmp_path), json.dumps(words)).splitlines()
    lines = [json.loads(line) for line in said if line.startswith("[")]
    assert lines == [[" ".join(word), code, []] for code, group in commands.items() for word in group]


def helps(command: Any, *words: str) -> list[list[str]]:
    """`--help` of a command, and of all below it."""
    below = [line for name, part in getattr(command, "commands", {}).items() for line in helps(part, *words, name)]
    return [[*words, "--help"], *below]


def test_a_script_tells_its_help_without_what_it_computes_with() -> None:
    light = (ROOT / "run.py", ROOT / "benchmarks", ROOT / "benchmarks" / "startup.py")
    scripts = [str(path) for path in (*light, *sorted((ROOT / "scripts").glob("*.py")))]
    said = [json.loads(line) for line in python(SCRIPTS, json.dumps(HEAVY[:3]), *scripts).splitlines() if line.startswith("[")]
    assert said == [[script, 0, []] for script in scripts]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of every composition, Hydra's own apart."""
    seen: list[list[str]] = []
    real = compat.compose_apart

    def counted(folders: object, name: object, overrides: list[str], *store: object) -> object:
        seen.append(list(overrides))
        return real(folders, name, overrides, *store)  # type: ignore[arg-type]

    monkeypatch.setattr(compose.compat, "compose_apart", counted)
    return seen


@pytest.mark.parametrize(
    ("words", "most"),
    [("run --help", 1), ("run method=kars", 1), ("run recipe.lr=abc", 1), ("run sed=1", 2)],  # the last lists the keys too
)
def test_a_command_composes_no_more_than_it_must(
    words: str, most: int, composed: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(words.split())
    assert 1 <= len(composed) <= most


@pytest.mark.parametrize("words", ["sweep=table1 suite=mini", "sweep=ablate_r suite=mini"])
def test_a_plan_composes_one_cell_and_its_neighbours(
    words: str, composed: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["status", *words.split(), "records=own"])  # the others take their time to read
    lengths = [len(values) for values in axes(expand(words.split())).values()]
    assert len(composed) == 1 + sum(length - 1 for length in lengths) + 1  # and one with the rate that was searched


def test_a_file_is_parsed_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    real = yaml_text.yaml_values
    monkeypatch.setattr(yaml_text, "yaml_values", lambda text: parsed.append(text) or real(text))
    yaml_text._parsed.cache_clear()
    compat._options_together.cache_clear()
    for words in (["method=lora"], ["method=karst", "dataset=vtab/dtd"], ["method=lora"]):
        compose.composed(words)
    assert len(parsed) == len(set(parsed)) > 10


def test_a_training_run_says_what_it_is_before_torch_is_imported(tmp_path: Path) -> None:
    first, second = python(FIRST_LINE, str(tmp_path), code=7).splitlines()[:2]
    assert "lora on mini/digits (vit_mini" in first and second.startswith("IMPORTED t")


@pytest.mark.slow  # tests/test_layers.py says where these packages may be imported, tests/adapt/test_anywhere.py what stays
def test_the_api_needs_no_optional_package_and_leaves_a_host_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    python(HOST, str(tmp_path), str(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").is_file()
