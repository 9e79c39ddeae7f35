"""Wheel and sdist, each installed apart from this checkout: from an empty folder a run, a report and the Python API work.

The new environment shares the dependencies of the one that runs the tests, but not what is installed there in place; with
KARST_BENCH_EMPTY_ENVIRONMENT=1 it installs them anew (hosted CI does).
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from karst_bench import __version__

ROOT = Path(__file__).resolve().parents[2]
FRESH = os.environ.get("KARST_BENCH_EMPTY_ENVIRONMENT") == "1"
API = """
import timm, torch, karst_bench
def vit(): return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_classes=4).eval()
torch.manual_seed(0)
plain, images = vit(), torch.randn(2, 3, 32, 32)
again = vit()
again.load_state_dict(plain.state_dict())
model = karst_bench.attach(plain, "karst", N=2, m=8, r=4)
with torch.no_grad():
    for p in model.parameters():
        if p.requires_grad: p.add_(0.1)
adapted = model(images)
karst_bench.save_adapter(model, "a.safetensors")
assert torch.equal(karst_bench.load_adapter(again, "a.safetensors")(images), adapted)
assert (karst_bench.merge(model)(images) - adapted).abs().max() < 1e-4
print(karst_bench.__file__)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{wheel, sdist}: built from this checkout, neither from the other."""
    out = tmp_path_factory.mktemp("packages")
    build = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds one of the packages, and an empty folder to work in."""

    environment: Path
    folder: Path

    def run(self, *words: str) -> str:
        """The standard output of a program of the environment; fails with what it said."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        kept = {key: value for key, value in kept.items() if not key.startswith("KARST_BENCH")} | {"OMP_NUM_THREADS": "1"}
        command = [str(self.environment / "bin" / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=self.folder, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def home(self) -> Path:
        return next(self.environment.glob("lib/python*/site-packages"))

    def files(self) -> dict[str, int]:
        """Every installed file but bytecode, with the time it was written."""
        found = (path for path in (self.home / "karst_bench").rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {str(path): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest, packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    place = tmp_path_factory.mktemp(f"installed_{request.param}")
    found = Installed(place / "environment", place / "empty")
    found.folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(found.environment)], check=True)
    shared = [] if FRESH else [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (found.home / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    python = str(found.environment / "bin" / "python")
    wanted = [] if FRESH else ["--no-deps", "--no-index", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--ignore-installed", *wanted]
    subprocess.run([*pip, str(packages[request.param])], check=True, cwd=found.folder)
    return found


def test_a_run_and_its_report_from_an_empty_folder(installed: Installed) -> None:
    before = installed.files()
    assert installed.run("karst-bench", "--version") == f"karst_bench {__version__}\n"
    installed.run("karst-bench", "run", "method=lora", "dataset=mini/digits", "recipe.epochs=1", "also=bitfit")
    (record,) = (installed.folder / "results" / "runs" / "mini").glob("*.json")
    shown = installed.run("karst-bench", "report", "suite=mini")
    assert "1 finished runs" in shown
    report = installed.folder / "results" / "report" / "mini"
    assert (report / "index.html").is_file()
    assert record.stem in (report / "results.csv").read_text()
    assert "KARST" in installed.run("karst-bench", "report", "suite=vtab", "pictures=false"), "the paper's numbers come along"
    assert "1 done" in installed.run("karst-bench", "sweep", "method=lora", "also=bitfit", "recipe.epochs=1")
    assert installed.files() == before, "nothing is written into the installed package"
    assert {path.name for path in installed.folder.iterdir()} <= {"results", "outputs"}


def test_the_python_interface(installed: Installed) -> None:
    where = Path(installed.run("python", "-c", API).strip())
    assert where.is_relative_to(installed.environment)


def test_what_the_wheel_holds(packages: dict[str, Path]) -> None:
    """Everything of the package and of conf/, by its place; the sdist holds the whole checkout, tests too."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    inside = ("karst_bench/", "conf/", "results/paper/", "results/published/")
    wanted = {name if name.startswith("karst_bench/") else f"karst_bench/{name}" for name in listed if name.startswith(inside)}
    with zipfile.ZipFile(packages["wheel"]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted and {"karst_bench/py.typed", "karst_bench/conf/method/lora.yaml"} <= held
    with tarfile.open(packages["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert set(listed) <= names | {name for name in listed if not (ROOT / name).exists()}
