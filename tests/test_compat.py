"""What is used of Hydra besides its public interface does what ours relies on, and a host's Hydra notices nothing."""

import copy
import io
import os
from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.version import VersionBase, getbase
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from karst_bench import compat, yaml_text
from karst_bench.config.compose import compose, register
from karst_bench.config.option_files import config_dir
from karst_bench.errors import UserError


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["method=lora", "also=vpt_deep", "extra=none"],
        ["dataset=vtab/dtd", "recipe.lr=2"],
        ["recipe.lr=3", "recipe=noah100", "method={r: 3}", "method=lora", "++recipe.lr=2", "~backbone.tag"],
        ["sweep=table1", "hydra.verbose=true"],
    ],
    ids=str,
)
def test_composes_what_hydra_composes(words: list[str]) -> None:
    register(ConfigStore.instance())
    with hydra.initialize_config_dir(str(config_dir()), version_base=compat.VERSION_BASE):
        theirs = hydra.compose("config", overrides=words)
    ours = compat.compose_apart([config_dir()], "config", words, register(compat.private_store()))
    assert OmegaConf.to_container(ours, resolve=False) == OmegaConf.to_container(theirs, resolve=False)
    assert OmegaConf.is_struct(ours)


def test_what_one_composition_writes_the_next_does_not_see(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: {b: 1}\nhydra: {job: {chdir: false}}\n")
    store = compat.private_store()
    assert compat.compose_apart([tmp_path], "config", ["a.b=2"], store) == {"a": {"b": 2}}
    assert compat.compose_apart([tmp_path], "config", [], store) == {"a": {"b": 1}}
    (tmp_path / "config.yaml").write_text("a: {b: 3}\n")
    assert compat.compose_apart([tmp_path], "config", [], store) == {"a": {"b": 3}}


@pytest.mark.parametrize(
    "words", [["method=nix"], ["method@x=lora"], ["nix=1"], ["method=lora,karst"], ["++method=lora"], ["~nix"]], ids=str
)
def test_refuses_what_hydra_refuses(words: list[str]) -> None:
    register(ConfigStore.instance())
    with hydra.initialize_config_dir(str(config_dir()), version_base=compat.VERSION_BASE), pytest.raises(HydraException) as theirs:
        hydra.compose("config", overrides=words)
    for _ in range(2):  # and again when its options were looked up before
        with pytest.raises(type(theirs.value)) as ours:
            compat.compose_apart([config_dir()], "config", words, register(compat.private_store()))
        assert str(ours.value).splitlines()[0] == str(theirs.value).splitlines()[0]


def test_files_that_come_and_change_are_seen(tmp_path: Path) -> None:
    """Also where a file has the length and the time that another had."""
    (tmp_path / "config.yaml").write_text("defaults: [part: a]\n")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.yaml").write_text("x: 1\n")
    store = compat.private_store()
    assert compat.compose_apart([tmp_path], "config", [], store) == {"part": {"x": 1}}
    (tmp_path / "part" / "b.yaml").write_text("x: 2\n")
    assert compat.compose_apart([tmp_path], "config", ["part=b"], store) == {"part": {"x": 2}}
    assert compat.compose_apart([tmp_path], "config", [], store) == {"part": {"x": 1}}
    times = (tmp_path / "part" / "a.yaml").stat()
    (tmp_path / "new").write_text("x: 3\n")
    os.utime(tmp_path / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "new").replace(tmp_path / "part" / "a.yaml")
    assert compat.compose_apart([tmp_path], "config", [], store) == {"part": {"x": 3}}


def test_a_search_path_on_the_command_line_keeps_our_nodes(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: mine\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "method=mine", "also=lora"]
    cfg = compat.compose_apart([config_dir()], "config", words, register(compat.private_store()))
    assert (cfg.method.name, cfg.also.name) == ("mine", "lora")


def test_a_host_program_keeps_its_hydra(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.1" if getbase() is None else None):
        state = VersionBase.instance().version_base
        instance, store = GlobalHydra.instance().hydra, copy.deepcopy(ConfigStore.instance().repo)
        resolvers = dict(BaseContainer._resolvers)
        assert compose(["method=lora", "also=vpt_deep"]).also.name == "vpt_deep"
        assert GlobalHydra.instance().hydra is instance and hydra.compose("config").mine == 1
        assert ConfigStore.instance().repo == store
        assert BaseContainer._resolvers == resolvers
        assert VersionBase.instance().version_base is state


@pytest.mark.parametrize(
    ("given", "flags", "overrides"),
    [
        ("--cfg job seed=1", ["--cfg", "job"], ["seed=1"]),
        ("method=lora --config-dir DIR -m seed=1,2", ["--config-dir", "DIR", "-m"], ["method=lora", "seed=1,2"]),
        ("--info defaults", ["--info", "defaults"], []),
        ("-c job --resolve -p method a=b", ["-c", "job", "--resolve", "-p", "method"], ["a=b"]),
        ("~tracker +x=1", [], ["~tracker", "+x=1"]),
        ("--cfg=job x=--y", ["--cfg=job"], ["x=--y"]),
    ],
)
def test_flags_keep_their_values(given: str, flags: list[str], overrides: list[str]) -> None:
    assert compat.split_arguments(given.split()) == (flags, overrides)


def test_an_unknown_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        compat.split_arguments(["--nonsense"])
    assert stopped.value.code == 2 and "--nonsense" in capsys.readouterr().err


ODD = ["", "a: 1e-3\nb: 2024-01-01\nc: 010\nd: 1_000\ne: .5\nf: on\ng: ~\nh: [1, 2.]\ni: {j: k}\n", "a: &x {b: 1}\nc: *x\n",
       "a: |\n  two\n  lines\n", "- 1\n- b\n", "word"]  # fmt: skip


def test_a_text_is_what_omegaconf_takes_it_for() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(config_dir().rglob("*.yaml"))]
    assert len(texts) > 100
    for text in [*texts, *ODD]:
        theirs = OmegaConf.load(io.StringIO(text))
        assert repr(yaml_text.loaded(text)) == repr(theirs), text


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: [1\n", "a: !!python/name:os.system\n", "a: *x\n"])
def test_a_text_that_omegaconf_refuses_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        OmegaConf.load(io.StringIO(text))
    with pytest.raises(UserError, match=r"^here\.yaml is no YAML: "):
        yaml_text.loaded(text, "here.yaml")
