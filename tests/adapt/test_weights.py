"""Weights on disk: one lookup for fetching and running, files that changed are refused, nothing is copied by halves."""

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from small import SWIN, VIT

from karst_bench import files
from karst_bench.adapt.weights import load_weights
from karst_bench.adapt.weights_file import SUFFIXES, check_weights, find_weights, present_weights, weights_sha256
from karst_bench.errors import UserError

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
