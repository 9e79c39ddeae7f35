"""`karst-bench check`: a run is scored again from its predictions; whatever was changed afterwards is found."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from karst_bench import files
from karst_bench.cli.app import main
from karst_bench.records import identity
from karst_bench.records import record as schema
from karst_bench.records.facts import Counts, Curves, DataFacts, Metrics, Provenance, Seconds, Speed, WeightsFacts
from karst_bench.records.predictions import Predictions, read_predictions
from karst_bench.records.record import RunRecord
from karst_bench.run.check import check_runs

ROOT = Path(__file__).resolve().parents[2]
CLASSES, N = 4, 200
PETS = {"name": "vtab/pets", "task": "pets", "group": "natural", "suite": "vtab", "source": "folder", "folder": "pets",
        "classes": CLASSES, "transform": "vtab"}  # fmt: skip
DIGITS = {"name": "mini/digits", "task": "digits", "group": "natural", "suite": "mini", "source": "mini", "classes": CLASSES,
          "sizes": {"train800": 8, "val200": 4, "test": N}}  # fmt: skip


def lists(data: Path) -> str:
    """The lists of pets below paths.data; returns the hash over them."""
    home = data / "vtab-1k" / "pets"
    home.mkdir(parents=True)
    drawn = np.random.default_rng(0).integers(0, CLASSES, N)
    for name, labels in (("train800", [0, 1]), ("val200", [2]), ("test", drawn)):
        (home / f"{name}.txt").write_text("".join(f"{name}/{i}.png {label}\n" for i, label in enumerate(labels)))
    from karst_bench.data.sources.labels import listed_labels

    return listed_labels(PETS, "test", data_root=data)[0]


def put(results: Path, dataset: dict[str, Any], labels: np.ndarray, list_sha256: str, seed: int = 0) -> Path:
    """An honest record with its predictions, as a run leaves them."""
    config = {"seed": seed, "suite": dataset["suite"], "method": {"name": "lora"}, "dataset": dataset,
              "backbone": {"name": "vit"}, "recipe": {"epochs": 1}}  # fmt: skip
    run_id = identity.identify(config, weights_sha256="w" * 64, list_sha256=list_sha256, encoding="png")
    draw = np.random.default_rng(seed + 1)
    top1 = np.where(draw.random(len(labels)) < 0.7, labels, draw.integers(0, CLASSES, len(labels)))
    made = Predictions(run_id, "test", list_sha256, top1, draw.uniform(0.3, 1, len(labels)).astype(np.float16), labels)
    name = f"predictions/{dataset['suite']}/{run_id}.safetensors"
    files.write(results / name, made.to_bytes())
    record = RunRecord(
        id=run_id, config=config, data=DataFacts(list_sha256=list_sha256, encoding="png"),
        weights=WeightsFacts(name="vit", sha256="w" * 64), provenance=Provenance(),
        metrics=Metrics(test_top1_last_pct=made.top1_pct, test_n=len(labels)),
        curves=Curves(epoch=(1,), train_loss=(1.0,), train_top1_pct=(50.0,), lr=(0.1,)), counts=Counts(trainable_params=1),
        seconds=Seconds(), speed=Speed(), predictions=name, predictions_sha256=files.sha256(results / name),
    )  # fmt: skip
    path = results / "runs" / dataset["suite"] / f"{run_id}.json"
    files.write(path, schema.dumps(record).encode())
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with lists, results/ with a run on them and one on an embedded task."""
    root = tmp_path_factory.mktemp("honest")
    sha256 = lists(root / "data")
    text = (root / "data/vtab-1k/pets/test.txt").read_text().splitlines()
    put(root / "results", PETS, np.array([int(line.split()[1]) for line in text]), sha256)
    put(root / "results", DIGITS, np.arange(N) % CLASSES, "d" * 64)
    return root


class Case:
    """A copy that a test bends: the files of the run on lists (or of the embedded one), rewritten as a careful forger would."""

    def __init__(self, root: Path, suite: str = "vtab") -> None:
        self.root, self.suite = root, suite
        self.path = next((root / "results" / "runs" / suite).glob("*.json"))
        self.file = next((root / "results" / "predictions" / suite).glob("*.safetensors"))

    def record(self, **changes: Any) -> None:
        """The record with other fields and a digest that fits."""
        self.path.write_text(schema.dumps(replace(schema.load(self.path), **changes)))

    def metrics(self, **changes: Any) -> None:
        self.record(metrics=replace(schema.load(self.path).metrics, **changes))

    def predictions(self, **changes: Any) -> None:
        """Other predictions, their new hash in the record."""
        found = read_predictions(self.file)
        values = {key: np.array(getattr(found, key)) for key in ("top1", "probability", "label")}
        values |= {key: change(values) if callable(change) else change for key, change in changes.items()}
        about = {key: values.pop(key, getattr(found, key)) for key in ("id", "split", "list_sha256")}
        self.file.write_bytes(Predictions(**about, **values).to_bytes())
        self.record(predictions_sha256=files.sha256(self.file))

    def text(self, old: str, new: str) -> None:
        """An edit of the record's text, its digest left alone."""
        self.path.write_text(self.path.read_text().replace(old, new))

    def list_line(self, number: int, text: str | None) -> None:
        file = self.root / "data/vtab-1k/pets/test.txt"
        lines = file.read_text().splitlines()
        lines[number : number + 1] = [] if text is None else [text]
        file.write_text("\n".join(lines) + "\n")


def swapped(key: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Two images of different labels change places."""

    def swap(values: dict[str, np.ndarray]) -> np.ndarray:
        labels, array = values["label"], values[key].copy()
        one, other = 0, int(np.flatnonzero(labels != labels[0])[0])
        array[[one, other]] = array[[other, one]]
        return array

    return swap


def both_wrong(values: dict[str, np.ndarray]) -> np.ndarray:
    """The labels of two images that were both missed, so that the accuracy stays as it is."""
    labels, top1 = values["label"].copy(), values["top1"]
    missed = np.flatnonzero(labels != top1)
    one, other = next((a, b) for a in missed for b in missed
                      if labels[a] != labels[b] and labels[b] != top1[a] and labels[a] != top1[b])  # fmt: skip
    labels[[one, other]] = labels[[other, one]]
    return labels


def shorter(case: Case) -> None:
    found = read_predictions(case.file)
    case.predictions(**{key: getattr(found, key)[:-1] for key in ("top1", "probability", "label")})


PLANTED: dict[str, tuple[Callable[[Case], object], str]] = {
    "an edited accuracy": (lambda c: c.metrics(test_top1_last_pct=90.0), "predictions give"),
    "one image more right": (lambda c: c.metrics(test_top1_last_pct=read_predictions(c.file).top1_pct + 100 / N),
                             "predictions give"),
    "an accuracy edited by hand": (lambda c: c.text('"test_top1_last_pct": 7', '"test_top1_last_pct": 8'), "digest"),
    "another number of images": (lambda c: c.metrics(test_n=2 * N), "400 images"),
    "accuracy called validation": (lambda c: c.metrics(test_top1_last_pct=None, test_n=None, val_top1_last_pct=75.0, val_n=N),
                                   "None images"),
    "swapped labels": (lambda c: c.predictions(label=swapped("label")), "labels are not the list's"),
    "labels of two missed images swapped": (lambda c: c.predictions(label=both_wrong), "2 labels are not the list's"),
    "labels that fit the predictions": (lambda c: c.predictions(label=lambda v: v["top1"]), "labels are not the list's"),
    "swapped predictions": (lambda c: c.predictions(top1=swapped("top1")), "predictions give"),
    "predictions edited, hash not": (lambda c: c.file.write_bytes(c.file.read_bytes()[:-2] + b"\1\0"), "SHA-256"),
    "a class that there is not": (lambda c: c.predictions(top1=lambda v: np.where(v["top1"] == v["label"], v["top1"], 9)), "0..3"),
    "an impossible probability": (lambda c: c.predictions(probability=lambda v: v["probability"] * 0 + 2), "probabilities"),
    "probabilities that are no numbers": (lambda c: c.predictions(probability=lambda v: v["probability"] * np.nan),
                                          "probabilities"),
    "a missing image": (shorter, f"{N - 1}"),
    "a truncated file": (lambda c: c.file.write_bytes(c.file.read_bytes()[:-7]), "SHA-256"),
    "a truncated file, its hash in the record": (
        lambda c: (c.file.write_bytes(c.file.read_bytes()[:-7]), c.record(predictions_sha256=files.sha256(c.file))), "the file at"),
    "no file": (lambda c: c.file.unlink(), "not there"),
    "another list": (lambda c: c.predictions(list_sha256="e" * 64), "list_sha256"),
    "another run's predictions": (lambda c: c.predictions(id="0" * 16), "of id"),
    "another split": (lambda c: c.predictions(split="train800"), "no run reports"),
    "a changed label in the list": (lambda c: c.list_line(3, "test/3.png 0" if "test/3.png 1" in
                                    (c.root / "data/vtab-1k/pets/test.txt").read_text() else "test/3.png 1"), "lists below"),
    "a list without an image": (lambda c: c.list_line(5, None), "lists below"),
    "another configuration": (lambda c: c.record(config=schema.load(c.path).config | {"seed": 7}), "make the id"),
}  # fmt: skip


def test_honest_runs_are_accepted(honest: Path) -> None:
    found = check_runs(honest / "results", data=honest / "data")
    assert found.differences == []
    assert (found.records, found.scored, found.listed, found.bare, found.images) == (2, 2, 2, 0, 2 * N)
    assert "2 records: 2 scored again from 400 predictions" in found.text


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_difference_is_found(what: str, honest: Path, tmp_path: Path) -> None:
    plant, word = PLANTED[what]
    shutil.copytree(honest, tmp_path / "bent")
    case = Case(tmp_path / "bent")
    plant(case)
    found = check_runs(tmp_path / "bent/results", data=tmp_path / "bent/data")
    assert found.differences, "nothing was found"
    assert all(line.startswith(case.path.name) for line in found.differences)
    assert any(word in line for line in found.differences), found.differences


def test_labels_of_an_embedded_task_are_known_by_rule(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest / "results", tmp_path / "results")
    Case(tmp_path, "mini").predictions(label=both_wrong)
    found = check_runs(tmp_path / "results")
    assert [line for line in found.differences if "labels are not the list's" in line]


def test_without_lists_two_runs_on_the_same_have_the_same_labels(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest / "results", tmp_path / "results")
    case = Case(tmp_path)
    found = read_predictions(case.file)
    put(tmp_path / "results", PETS, found.label, found.list_sha256, seed=3)
    assert check_runs(tmp_path / "results").differences == []
    case.predictions(label=both_wrong)
    assert any("same lists" in line for line in check_runs(tmp_path / "results").differences)


def test_the_command_says_what_it_covered_and_ends_with_1(honest: Path, tmp_path: Path, capsys) -> None:
    assert main(["check", str(honest / "results"), f"data={honest / 'data'}"]) == 0
    shutil.copytree(honest / "results", tmp_path / "results")
    Case(tmp_path).metrics(test_top1_last_pct=90.0)
    assert main(["check", str(tmp_path / "results" / "runs" / "vtab")]) == 1
    assert "predictions give" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nowhere")]) == 2


ALONE = """
import socket, sys
sys.modules["torch"] = None  # importing it is an ImportError

def refuse(*_, **__):
    raise OSError("no network here")

socket.socket.connect = refuse
from karst_bench.cli.app import main
sys.exit(main(["check", *sys.argv[1:]]))
"""


def test_neither_torch_nor_a_network_is_needed(honest: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE, str(honest / "results"), f"data={honest / 'data'}"], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 scored again" in done.stdout


@pytest.mark.slow
def test_all_of_vtabs_test_images(tmp_path: Path) -> None:
    sizes = [10000, 6084, 1880, 6149, 3669, 26032, 21750, 32768, 5400, 6300, 42670, 15000, 15000, 22735, 711, 73728, 73728,
             12150, 12150]  # fmt: skip
    assert sum(sizes) == 387_904
    for seed, n in enumerate(sizes):
        put(tmp_path, DIGITS | {"sizes": {"test": n}}, np.arange(n) % CLASSES, f"{seed:064}", seed=seed)
    started = time.process_time()
    found = check_runs(tmp_path)
    spent = time.process_time() - started
    print(f"{found.images} predictions in {spent:.2f} s of one core")
    assert found.differences == [] and found.images == 387_904
