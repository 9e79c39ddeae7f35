"""Every command: help, version, one notation, exit codes and sentences."""

import logging
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
import weakref
from pathlib import Path

import pytest

from karst_bench import __version__
from karst_bench.cli import app, console, hydra_app
from karst_bench.cli.app import main
from karst_bench.cli.outcome import exit_code
from karst_bench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ["run", "sweep", "status", "tune", "report", "demo", "data audit", "data status", "data prepare", "data fewshot",
            "data lists", "weights fetch"]  # fmt: skip
DOORS = {"status": "status", "tune": "tune", "demo": "demo", "audit_data": "data audit", "prepare_vtab": "data prepare",
         "prepare_fewshot": "data fewshot", "fetch_weights": "weights fetch"}  # fmt: skip
GENERATORS = sorted({path.stem for path in (ROOT / "scripts").glob("*.py")} - set(DOORS))


def run_script(name: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    return int(stopped.value.code or 0)


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["data", "-h"], ["weights", "--help"]):
        assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command.split()[-1]} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_version(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert (f"Usage: karst-bench {command}" in shown) != (command == "run") and len(shown) > 150
    assert main([*command.split(), "--version"]) == 0
    assert capsys.readouterr().out == f"karst_bench {__version__}\n"


@pytest.mark.parametrize(
    ("line", "among", "never"),
    [
        ("karst-bench ", "run data weights tune", "seed="),
        ("karst-bench data a", "audit", "run"),
        ("karst-bench run met", "method= method.r=", "method=lora"),
        ("karst-bench run method=lo", "method=lora method=lora_all", "method=karst"),
        ("python run.py method=lora method.s", "method.sites= method.s=", "method.N="),
        ("./run.py -m method=lora,kar", "method=lora,karst", "method=karst"),
        ("run.py device=", "device=auto device=cuda", "device=tpu"),
        ("karst-bench run recipe.l", "recipe.lr= recipe.lag=", "recipe.wd="),
        ("karst-bench tune tr", "trials= tracker=", "seed="),
        ("karst-bench report s", "suite=", "seed="),
        ("karst-bench run paths.data=/", "", "paths.data=/"),
        ("python other.py met", "", "method="),
    ],
)
def test_a_shell_completes_what_there_is(line: str, among: str, never: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "words", line]) == 0
    found = capsys.readouterr().out.splitlines()
    assert set(among.split()) <= set(found) and never not in found


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_reads_the_script_and_completes_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0 and main(["completion", "fish"]) == 2
    script = tmp_path / "karst.sh"
    script.write_text(capsys.readouterr().out)
    program = tmp_path / "karst-bench"
    program.write_text("#!/bin/bash\necho method=lora\necho method=lora_all\n")
    program.chmod(0o755)
    asked = f"""PATH={tmp_path}:$PATH; source {script}
        COMP_WORDS=(python run.py method = lo); COMP_LINE='python run.py method=lo'; COMP_POINT=${{#COMP_LINE}}
        _karst_bench; echo "${{COMPREPLY[*]}}"; COMPREPLY=(); COMP_WORDS=(python x.py); _karst_bench; echo "${{#COMPREPLY[@]}}" """
    said = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said == "lora lora_all\n0\n"


@pytest.mark.parametrize("name", sorted(DOORS))
def test_a_script_is_the_command_it_names(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(name, "--help", monkeypatch=monkeypatch) == 0
    by_script = capsys.readouterr().out
    assert main([*DOORS[name].split(), "--help"]) == 0
    assert by_script == capsys.readouterr().out


@pytest.mark.parametrize("name", GENERATORS)
def test_asking_a_generator_for_help_makes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pages = {path: path.stat().st_mtime_ns for path in (ROOT / "docs").rglob("*")}
    assert run_script(name, "--help", monkeypatch=monkeypatch) == 0
    assert "Usage:" in capsys.readouterr().out
    assert run_script(name, "nonsense=1", monkeypatch=monkeypatch) == 2
    assert pages == {path: path.stat().st_mtime_ns for path in (ROOT / "docs").rglob("*")} and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("data audit rot=DIR", "did you mean root"),
        ("data audit DIR --tsk x", "--task"),
        ("data audit DIR task=imagenet", "choose from"),
        ("data prepare tasks=dtd", "DIR"),
        ("report suit=mini", "did you mean suite"),
        ("report suite=imagenet", "vtab, mini"),
        ("report suite=mini tasks=mini/digit pictures=false", "did you mean mini/digits"),
        ("report results=no/such/folder", "there is no such folder"),
        ("export results=no/such/folder", "there is no such folder"),
        ("weights fetch --check --out no/such/folder", "there is none to check"),
        ("tune method=lora trials=0", "trials"),
        ("tune method=lora protocol=last", "protocol= cannot be chosen here"),
        ("status sed=1", "did you mean seed"),
        ("sweep sweep=table9", "table1"),
        ("run method=kars", "did you mean karst"),
        ("run --nonsense", "--nonsense"),
        ("nonsense", "nonsense"),
    ],
)
def test_bad_input_is_a_sentence_and_code_2(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert said in out + err and "Traceback" not in err


def test_key_value_and_options_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from karst_bench.cli import datasets

    seen: list[object] = []

    def audit(root: Path, task: str | None, *, images: bool, as_json: bool) -> int:
        seen.append((root, task, images, as_json))
        return 1

    monkeypatch.setattr(datasets, "audit", audit)
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in ("root=~/a=b tasks=pets images=false json=true", "~/a=b --task pets --no-images --json",
                  "--no-images task=pets root=~/a=b --json"):  # fmt: skip
        assert main(["data", "audit", *words.split()]) == 1
    assert set(seen) == {(tmp_path / "a=b", "pets", False, True)}


def test_a_command_that_takes_overrides_keeps_them_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from karst_bench.cli import search

    seen: list[object] = []
    monkeypatch.setattr(search, "tune", lambda words, **own: seen.append((words, own)))
    assert main(["tune", "method=lora", "trials=3", "recipe.lr=1e-3,1e-2", "--workers", "2", "+x=[1,2]"]) == 0
    own = {"trials": 3, "workers": 2, "table": None, "join": False, "write": False}
    assert seen == [(["method=lora", "recipe.lr=1e-3,1e-2", "+x=[1,2]"], own)]


def test_a_key_that_the_swept_methods_alone_have_is_set_in_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hydra_app, "_one", lambda settings, **_: seen.append((settings.method["name"], settings.method["budget"])))
    words = ["-m", "dataset=mini/digits", "method.budget=30000", "method=spt_lora,spt_adapter"]
    assert hydra_app.main(words) == 0 and seen == [("spt_lora", 30000), ("spt_adapter", 30000)]
    assert hydra_app.main([*words[:-1], "method=spt_lora,karst"]) == hydra_app.main([*words[:-1], "method=karst,lora"]) == 2
    assert len(seen) == 2, "nothing ran"


def test_a_run_of_a_sweep_is_told_how_many_have_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By that, and not alone, speed=auto on a GPU decides whether compiling pays."""
    seen: list[tuple[str, int]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hydra_app, "_one", lambda settings, alike=1: seen.append((settings.method["name"], alike)))
    assert hydra_app.main(["-m", "method=lora,karst", "dataset=mini/digits", "seed=0,1", "recipe.lr=0.1", "method.r=8"]) == 0
    assert seen == [("lora", 2)] * 2 + [("karst", 2)] * 2
    seen.clear()
    assert hydra_app.main(["method=karst", "dataset=mini/digits"]) == 0 and seen == [("karst", 1)]


class Held:
    """A model on a GPU, say."""


def test_what_a_failed_run_held_is_free_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep raises at its end what its runs raised, traceback and all; the memory of a run that was too large goes before."""
    held: list[weakref.ref[Held]] = []
    there: list[int] = []

    def runs(settings: object, **_: object) -> None:
        there.append(sum(one() is not None for one in held))
        model = Held()
        held.append(weakref.ref(model))
        try:
            raise MemoryError("no room")
        except MemoryError as error:
            raise UserError("no room for this run") from error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hydra_app, "_one", runs)
    words = ["-m", "method=linear", "dataset=mini/digits", "seed=0,1"]
    assert hydra_app.main(words) == 2 and there == [0, 0]
    with pytest.raises(UserError) as raised:
        hydra_app.main([*words, "debug=true"])
    assert "in runs" in "".join(traceback.format_exception(raised.value))


def test_run_hands_every_word_to_hydra_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(hydra_app, "main", lambda words: seen.append(list(words)) or 0)
    words = shlex.split("-m method=lora seed=0,1 --config-dir DIR -p method --info defaults -sc install=bash ~tracker")
    assert main(["run", *words]) == 0 and seen == [words]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("--cfg job method=lora", "r: 8"),
        ("method=lora --cfg job --package method", "# @package method"),
        ("--cfg job --resolve -p paths", "outputs: outputs"),
        ("--info defaults", "Defaults List"),
        ("also=vpt_deep --info defaults-tree", "also: vpt_deep"),
        ("--config-dir {tmp} method=mine --cfg job", "name: mine"),
    ],
)
def test_hydras_own_flags(given: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: mine\n")
    before = list(logging.root.handlers)
    assert hydra_app.main(given.format(tmp=tmp_path).split()) == 0
    assert shown in capsys.readouterr().out and logging.root.handlers == before


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("x is not y"), 2, "error: x is not y\n"),
        (UserError("m\u202ex is\x1b[2J\nno name\u00e9"), 2, "error: m\\u202ex is\\x1b[2J\nno name\u00e9\n"),
        (ValueError("odd"), 1, "error: ValueError: odd\ndebug=true shows the traceback\n"),
        (KeyboardInterrupt("the same command continues"), 130, "stopped; the same command continues\n"),
    ],
)
def test_how_an_act_ends(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: _raise(error), debug=False) == code
    assert capsys.readouterr().err == said


def test_a_reader_who_has_left_is_no_error() -> None:
    """`karst-bench status | head -1`: no sentence, no traceback, and what the interpreter would say when it ends."""
    program = ("from karst_bench.cli.outcome import exit_code, leave\nimport sys\n"
               "sys.stdin.readline()\nleave(exit_code(lambda: print('x' * 10 ** int(sys.argv[1])), debug=False))\n")  # fmt: skip
    for size in ("0", "6"):
        words = [sys.executable, "-c", program, size]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdin and process.stdout and process.stderr
            process.stdout.close()
            process.stdin.write(b"now\n")
            process.stdin.close()
            assert (process.wait(), process.stderr.read()) == (141, b"")


def test_ctrl_c_while_libraries_are_imported_is_a_sentence() -> None:
    """Nothing listens yet; the process still ends by the signal. A shell's background jobs are born deaf to it, these tests too."""
    hearing = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{hearing}; import karst_bench.cli; os.kill(os.getpid(), signal.SIGINT)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "stopped; nothing had begun\n")


def test_debug_shows_the_traceback() -> None:
    for words in (["report", "suite=imagenet", "debug=true"], ["run", "method=kars", "debug=true"]):
        with pytest.raises(UserError):
            main(words)


@pytest.fixture
def no_handlers(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    logger = logging.getLogger(console.LOGGER)
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # Hydra's --info leaves one
    return logger


def test_the_console_shows_info_on_stderr_once(no_handlers: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        console.attach_console()
    log = logging.getLogger("karst_bench.somewhere")
    log.info("trained %d", 3)
    log.warning("odd")
    log.debug("detail")
    assert capsys.readouterr() == ("", "trained 3\nwarning: odd\n")
    console.attach_console(debug=True)
    log.debug("detail")
    assert capsys.readouterr().err == "detail\n"


def test_on_a_terminal_a_line_replaces_the_bar(
    no_handlers: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    console.attach_console()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logging.getLogger("karst_bench.x").warning("odd")
    assert capsys.readouterr().err == "\r\x1b[K\x1b[33mwarning: odd\x1b[0m\n"


def test_only_the_console_configures_logging() -> None:
    for path in (ROOT / "karst_bench").rglob("*.py"):
        if path.parent.name != "cli":
            assert not {"basicConfig(", "dictConfig("} & set(path.read_text().split()), path


def test_the_entry_point_is_the_door_of_the_application() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"karst-bench": "karst_bench.cli.app:door"} and callable(app.door)
