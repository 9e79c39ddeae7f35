"""Weights on disk: one lookup for fetching and running, files that changed are refused, nothing is copied by halves."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from small import SWIN, VIT

from karst_bench import files
from karst_bench.adapt.backbone import build_backbone, built_with, own_values
from karst_bench.adapt.weights import load_weights
from karst_bench.adapt.weights_file import SUFFIXES, SUMS, check_weights, find_weights, present_weights, weights_sha256
from karst_bench.errors import DiskError, UserError

TAG = "vit_base_patch16_224.orig_in21k"


def wanted(weights="pretrained"):
    return {"name": "vit_b16", "timm_name": TAG, "weights": weights}


@pytest.mark.parametrize("name", [f"{TAG}{suffix}" for suffix in SUFFIXES] + [f"{TAG}/model.safetensors"])
def test_what_was_fetched_is_found_by_the_run(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"weights")
    assert find_weights(wanted(), tmp_path) == present_weights(TAG, tmp_path) == tmp_path / name


def test_the_lookup_needs_no_torch():
    code = "import sys, karst_bench.adapt.weights_file as w; w.find_weights; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"looked for .*model\.safetensors.*\.bin\. Fetch them with"):
        find_weights(wanted(), tmp_path)
    with pytest.raises(UserError, match="no such file"):
        find_weights(wanted(str(tmp_path / "x.pth")), tmp_path)
    assert find_weights(wanted("none"), tmp_path) is None and weights_sha256(None) is None


def test_the_run_refuses_a_file_that_changed_since_it_was_fetched(tmp_path):
    path = tmp_path / f"{TAG}.npz"
    path.write_bytes(b"weights")
    assert weights_sha256(path, tmp_path) == files.sha256(path), "never recorded: taken as it is"
    check_weights(tmp_path, path)
    assert weights_sha256(path, tmp_path) == files.sha256(path)
    path.write_bytes(b"Weights")
    with pytest.raises(UserError, match="changed or damaged"):
        weights_sha256(path, tmp_path)
    path.write_bytes(b"weights")
    assert weights_sha256(path, tmp_path) == files.sha256(path), "the same bytes at another time"


def test_a_recorded_file_is_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / f"{TAG}.npz"
    path.write_bytes(b"weights")
    expected = check_weights(tmp_path, path)
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail("read"))
    assert weights_sha256(path, tmp_path) == expected


def test_a_folder_that_takes_no_sums_is_a_sentence(tmp_path):
    path = tmp_path / f"{TAG}.npz"
    path.write_bytes(b"weights")
    (tmp_path / f".{SUMS}.lock").mkdir()
    with pytest.raises(DiskError, match=r"paths\.weights="):
        check_weights(tmp_path, path)


def built(backbone, seed, **more):
    torch.manual_seed(seed)
    return timm.create_model(backbone["timm_name"], num_classes=3, **(backbone["model_args"] | more))


@pytest.mark.parametrize("backbone", [VIT, SWIN], ids=["vit", "swin"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("headless", [True, False])
def test_a_backbone_is_filled_and_its_head_left(tmp_path, backbone, suffix, headless):
    saved, net, path = built(backbone, 0), built(backbone, 1), tmp_path / f"w{suffix}"
    state = {name: t for name, t in saved.state_dict().items() if not (headless and name.startswith("head"))}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    load_weights(net, path)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, (before if name.startswith("head") else saved.state_dict())[name]), name


@pytest.mark.parametrize(("more", "said"), [({"depth": 3}, "missing"), ({"embed_dim": 24}, "has shape")])
def test_another_architecture_changes_nothing(tmp_path, more, said):
    path, net = tmp_path / "w.safetensors", built(VIT, 1, **more)
    save_file(built(VIT, 0).state_dict(), path)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(UserError, match=f"does not fit: .*{said}.*choose the backbone it was saved from"):
        load_weights(net, path)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


WRAPPED = {
    "state_dict_ema": lambda state: {"state_dict": {}, "state_dict_ema": state, "epoch": 3},
    "teacher module.": lambda state: {"teacher": {f"module.{name}": t for name, t in state.items()}, "student": {}},
    "model": lambda state: {"model": state},
    "module. _orig_mod.": lambda state: {f"module._orig_mod.{name}": t for name, t in state.items()},
    "teacher.": lambda state: {f"teacher.{name}": t for name, t in state.items()} | {f"student.{n}": -t for n, t in state.items()},
}


@pytest.mark.parametrize("where", WRAPPED)
def test_wrapped_weights_are_found_and_said(tmp_path, caplog, where):
    saved, net, path = built(VIT, 0), built(VIT, 1), tmp_path / "w.pth"
    torch.save(WRAPPED[where](saved.state_dict()), path)
    caplog.set_level("INFO")
    load_weights(net, path)
    assert torch.equal(net.blocks[1].mlp.fc2.weight, saved.blocks[1].mlp.fc2.weight)
    assert f"the weights under {where} are taken" in caplog.text


def test_a_checkpoint_with_more_than_the_backbone_is_refused_and_both_are_named(tmp_path):
    path, net = tmp_path / "w.safetensors", built(VIT, 1)
    state = built(VIT, 0, depth=3).state_dict()
    del state["norm.bias"]
    save_file(state, path)
    with pytest.raises(UserError, match=r"1 are missing, 12 are unknown: norm\.bias is missing, blocks\.2\.\S+ is unknown"):
        load_weights(net, path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a pointer of git LFS"),
        ("w.pth", b"\n<!DOCTYPE html><html></html>", "a web page"),
        ("w.safetensors", b"PK\x03\x04 and so on", r"zip archive \(torch.save\) by another name"),
        ("w.safetensors", b"\x80\x04K\x01.", "pickle by another name"),
    ],
)
def test_what_is_no_weights_file_is_named_for_what_it_is(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_weights(built(VIT, 1), tmp_path / name)


def test_a_model_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch):
    name, folder = "hf-hub:someone/tiny", tmp_path / "models--someone--tiny"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    wanted = {"timm_name": name, "name": name, "weights": "pretrained", "input_size": None, "mean": None, "std": None}
    with pytest.raises(UserError, match="not in the hub's cache; fetch it with: hf download someone/tiny"):
        own_values(wanted)
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    about = {"input_size": [3, 32, 32], "mean": [0.1] * 3, "std": [0.2] * 3}
    config = {"architecture": VIT["timm_name"], "model_args": VIT["model_args"], "pretrained_cfg": about}
    (snapshot / "config.json").write_text(json.dumps(config))
    save_file(built(VIT, 0).state_dict(), snapshot / "model.safetensors")
    values = wanted | own_values(wanted)
    assert values["input_size"] == 32 and values["mean"] == [0.1] * 3
    net = build_backbone(values, classes=3, weights=find_weights(values, tmp_path / "nowhere"))
    assert torch.equal(net.blocks[1].mlp.fc2.weight, built(VIT, 0).blocks[1].mlp.fc2.weight)
    assert built_with(values) == (VIT["timm_name"], VIT["model_args"])


@pytest.mark.parametrize(
    ("name", "said"),
    [("vit_base_patch16_22", "is unknown to timm. Near: vit_base_patch16_224"),
     ("vit_base_patch16_224.none_such", r"no such weights of vit_base_patch16_224. Near: vit_base_patch16_224\."),
     ("vit_base_patch16_224_in21k", r"timm has renamed it; use backbone.timm_name=vit_base_patch16_224\.augreg_in21k")],
)  # fmt: skip
def test_a_name_that_timm_has_not_or_has_no_longer_is_told_its_neighbours(name, said):
    full = {"timm_name": name, "input_size": 224, "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(UserError, match=said):
        own_values(full)
