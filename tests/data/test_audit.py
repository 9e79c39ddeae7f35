"""The audit finds what was planted, and nothing else; its command line."""

import json
import shutil
from pathlib import Path

import pytest
from miniatures import CONF, OPTIONS, dataset_of, make_fewshot, make_vtab
from PIL import Image

from karst_bench.cli.app import main
from karst_bench.config.datasets import choose, dataset_configs
from karst_bench.data.setup.audit import Finding, audit
from karst_bench.errors import UserError


def look(root: Path, task: str | None = None, *, images: bool = True) -> dict[str, Finding]:
    return audit(root, choose(task), images=images)


def test_sound_sets_are_sound(all_sets: Path) -> None:
    found = look(all_sets)
    assert sorted(found) == sorted(OPTIONS)
    for option, finding in found.items():
        assert finding.sound, f"{option}: {finding.as_json()}"
        assert finding.list_state == "own split" and any("own split" in line for line in finding.warnings)
    cifar = found["vtab/cifar100"]
    assert (cifar.files, cifar.encoding, cifar.classes) == (30, "jpeg75", 100)
    assert found["fewshot/pets"].duplicates == 37
    assert found["fewshot/cars"].classes_seen == 196


def test_planted_faults_are_found(tmp_path: Path) -> None:
    home = make_vtab(tmp_path, "vtab/cifar100")
    (home / "images/test/000002.jpg").write_bytes((home / "images/test/000002.jpg").read_bytes()[:200])
    (home / "images/train800/000003.jpg").unlink()
    shutil.copy(home / "images/train800/000001.jpg", home / "images/test/000004.jpg")
    with (home / "test.txt").open("a") as file:
        file.write("images/test/000000.jpg 100\n../secret.jpg 3\nimages/test/000001.jpg x\nimages/val200/000001.jpg 0\n")
        file.write((home / "test.txt").read_text().splitlines()[0] + "\n")
    found = look(tmp_path)["vtab/cifar100"]
    assert not found.sound
    assert sorted(found.unreadable) == ["images/test/000002.jpg", "images/train800/000003.jpg"]
    assert [line.split(":")[:2] for line in found.out_of_range] == [["test.txt", str(n)] for n in (7, 8, 9)]
    assert "100 of images/test/000000.jpg lies outside 0..99" in found.out_of_range[0]
    assert {"images/val200/000001.jpg", "images/test/000004.jpg"} <= set(found.overlap)
    assert any("repeat" in line for line in found.warnings)


def test_labels_that_disagree_between_lists(tmp_path: Path) -> None:
    home = make_vtab(tmp_path, "vtab/cifar100")
    text = (home / "val200.txt").read_text().splitlines()
    path, label = text[0].split()
    (home / "val200.txt").write_text("\n".join([f"{path} {(int(label) + 1) % 100}", *text[1:]]))
    (line,) = look(tmp_path, images=False)["vtab/cifar100"].out_of_range
    assert "its labels are not those" in line


@pytest.mark.parametrize(("one", "other"), [("train800", "val200"), ("train800val200", "test"), ("val200", "test")])
def test_an_image_of_two_splits_is_found(tmp_path: Path, one: str, other: str) -> None:
    home = make_vtab(tmp_path, "vtab/dtd")
    line = (home / f"{one}.txt").read_text().splitlines()[-1]
    with (home / f"{other}.txt").open("a") as file:
        file.write(f"{line}\n")
    assert line.split()[0] in look(tmp_path, images=False)["vtab/dtd"].overlap


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_an_image_of_two_few_shot_lists_is_found(tmp_path: Path, one: str, other: str) -> None:
    make_fewshot(tmp_path, "fewshot/pets")
    files = {file.name.partition("_")[0]: file for file in tmp_path.rglob("annotations/*_meta.list*")}
    line = files[one].read_text().splitlines()[0]
    with files[other].open("a") as file:
        file.write(f"{line}\n")
    assert look(tmp_path, images=False)["fewshot/pets"].overlap == [line.split()[0]]


def test_duplicates_are_expected_of_dsprites_only(tmp_path: Path) -> None:
    for option in ("vtab/dsprites_orientation", "vtab/dtd"):
        home = make_vtab(tmp_path, option)
        for split in ("train800", "test"):
            Image.new("RGB", (8, 8)).save(home / f"images/{split}/000000.jpg")
    found = look(tmp_path)
    assert found["vtab/dsprites_orientation"].sound
    assert any("as is known of this set" in line for line in found["vtab/dsprites_orientation"].warnings)
    assert found["vtab/dtd"].overlap == ["images/test/000000.jpg"]


def test_rotations_and_lossy_files_are_warned_of(tmp_path: Path) -> None:
    home = make_vtab(tmp_path, "vtab/dtd")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (8, 8)).save(home / "images/val200/000000.jpg", exif=exif)
    warnings = " ".join(look(tmp_path)["vtab/dtd"].warnings)
    assert "EXIF rotation" in warnings and "stored as jpeg75" in warnings


def test_names_are_checked() -> None:
    assert list(choose("cifar100")) == ["vtab/cifar100"]
    assert sorted(choose("pets")) == ["fewshot/pets", "vtab/pets"]
    assert len(dataset_configs()) == 29
    with pytest.raises(UserError, match="choose from"):
        choose("imagenet")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_vtab(tmp_path, "vtab/dtd")
    make_fewshot(tmp_path, "fewshot/pets")

    def command(*words: str) -> tuple[int, str, str]:
        return main(["data", *words]), *capsys.readouterr()

    code, out, _ = command("audit", f"root={tmp_path}", "--json")
    assert code == 0 and set(json.loads(out)) == {"vtab/dtd", "fewshot/pets"}
    assert set(json.loads(out)["vtab/dtd"]) == {"unreadable", "out_of_range", "overlap", "warnings"}
    (home / "images/test/000000.jpg").write_bytes(b"")
    code, out, _ = command("audit", str(tmp_path), "--task", "vtab/dtd")
    assert code == 1 and "unreadable: images/test/000000.jpg" in out
    code, _, errors = command("audit", f"root={home}")
    assert code == 2 and "give its parent" in errors
    code, out, _ = command("prepare", f"root={tmp_path}", "tasks=dtd")
    assert code == 1 and "not built here" in out and "not usable: images/test/000000.jpg" in out
    code, out, _ = command("status", f"root={tmp_path}", "tasks=dtd,svhn")
    assert code == 1 and "the audit found images/test/000000.jpg" in out and "tasks=vtab/svhn root=" in out


def test_configuration_facts() -> None:
    """Every YAML is complete: the facts of its kind, lines short enough for tables, groups of 7, 4, 8, 5 and 5."""
    configs = dataset_configs()
    groups = [config["group"] for config in configs.values()]
    assert {g: groups.count(g) for g in groups} == {"natural": 7, "specialized": 4, "structured": 8, "fewshot": 5, "fgvc": 5}
    assert sum(config["sizes"]["test"] for config in configs.values() if config["suite"] == "vtab") == 387_904
    for option, found in configs.items():
        file = CONF / f"{option}.yaml"
        assert file.read_text().startswith(f"# python run.py dataset={option}")
        assert found["name"] == option and found["task"] == file.stem and found["suite"] == file.parent.name
        assert all(isinstance(found[key], str) and found[key] for key in ("label_rule", "origin", "licence", "known_issues"))
        assert found["source"] == "folder" and isinstance(found["allow_duplicates"], bool)
        assert found.keys() == dataset_of(option).keys()
