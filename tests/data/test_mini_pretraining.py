"""Pre-training of the small backbones: what it reads, what it draws, and that a broken run goes on as if unbroken."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from karst_bench.errors import UserError
from scripts.pretraining.images import read_cifar10
from scripts.pretraining.objective import Questions, features
from scripts.pretraining.scenes import GRID, make_scenes
from scripts.pretraining.train import PHOTOS_A_STEP, Material, Plan, Pretraining

ROOT = Path(__file__).parents[2]
BACKBONES = ("vit_mini", "swin_mini")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)


def binary_folder(root: Path) -> Path:
    for name, start in (("data_batch_1", 0), ("data_batch_2", 2), ("test_batch", 4)):
        rows = [bytes([start + i]) + PIXELS[start + i].tobytes() for i in range(2)]
        (root / f"{name}.bin").write_bytes(b"".join(rows))
    return root


def test_the_binary_folder_and_archive_give_the_same(tmp_path: Path):
    folder = binary_folder(tmp_path)
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.glob("*.bin")):
            tar.add(file, f"cifar-10-batches-bin/{file.name}")
    for path in (folder, archive):
        pixels, labels = read_cifar10(path, "train")
        np.testing.assert_array_equal(pixels, PIXELS[:4])
        assert labels.tolist() == [0, 1, 2, 3]
        assert read_cifar10(path, "test")[1].tolist() == [4, 5]


def test_packed_jpegs_are_decoded(tmp_path: Path):
    files = []
    for level in (20, 200):
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), (level, 90, 90)).save(stream, "JPEG", quality=95)
        files.append(np.frombuffer(stream.getvalue(), dtype=np.uint8))
    offset = np.cumsum([0, *map(len, files)])
    np.savez(tmp_path / "train.npz", jpeg=np.concatenate(files), offset=offset, label=np.array([3, 7], dtype=np.uint8))
    pixels, labels = read_cifar10(tmp_path, "train")
    assert labels.tolist() == [3, 7] and pixels.shape == (2, 3, 32, 32)
    assert abs(int(pixels[0, 0, 5, 5]) - 20) <= 3 and abs(int(pixels[1, 0, 5, 5]) - 200) <= 3


def test_nothing_there_or_damaged_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="found neither"):
        read_cifar10(tmp_path, "train")
    (tmp_path / "data_batch_1.bin").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="100 bytes are no whole number of 3073-byte records"):
        read_cifar10(tmp_path, "train")


def test_scenes_follow_from_the_seed_and_say_what_is_there():
    scenes, again, other = make_scenes(40, 3), make_scenes(40, 3), make_scenes(40, 4)
    np.testing.assert_array_equal(scenes.pixels, again.pixels)
    assert (scenes.pixels != other.pixels).any()
    assert scenes.dense.shape == (40, 4, GRID, GRID)
    assert (scenes.dense[:, 1].sum(axis=(1, 2)) <= scenes.count + 1).all()
    assert (scenes.dense[:, 1].sum(axis=(1, 2)) >= 1).all()
    for i in range(40):  # the largest figure's middle is marked in the cell that its pose names
        column, row = np.floor((scenes.pose[i, :2] + 1) / 2 * GRID).astype(int)
        assert scenes.dense[i, 1, row, column] == 1


@pytest.mark.parametrize("name", BACKBONES)
def test_shipped_weights_fit_timm_and_are_small(name: str):
    conf = yaml.safe_load((ROOT / "conf" / "backbone" / f"{name}.yaml").read_text(encoding="utf-8"))
    path = ROOT / "karst_bench" / "weights" / f"{name}.safetensors"
    weights = load_file(path)
    assert path.stat().st_size <= 8e6 and all(value.dtype == torch.float16 for value in weights.values())
    model = timm.create_model(conf["timm_name"], num_classes=0, **conf["model_args"])
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    pooled, tokens = features(model.eval(), torch.zeros(2, 3, 32, 32))
    assert pooled.isfinite().all() and tokens.shape[1] == tokens.shape[2]
    assert all(
        w % 16 == 0
        for w in {value.shape[0] for key, value in weights.items() if key.endswith("weight") and value.ndim == 2}
    )


def test_the_card_names_the_shipped_files():
    card = (ROOT / "docs" / "mini_models.md").read_text(encoding="utf-8")
    for name in BACKBONES:
        digest = hashlib.sha256((ROOT / "karst_bench" / "weights" / f"{name}.safetensors").read_bytes()).hexdigest()
        assert digest in card


def small_run(checkpoint: Path) -> Pretraining:
    torch.manual_seed(0)
    args = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args)
    rng = np.random.default_rng(0)
    photos = torch.from_numpy(rng.integers(0, 256, (4 * PHOTOS_A_STEP, 3, 32, 32), dtype=np.uint8))
    material = Material.of(photos, torch.from_numpy(rng.integers(0, 10, len(photos))), make_scenes(20, 0))
    half = (0.5, 0.5, 0.5)
    plan = Plan(epochs=1, lr=1e-3, weight_decay=0.05, seed=0)
    heads = Questions(16, 2, 10)
    return Pretraining(model, heads, material, plan, mean=half, std=half, checkpoint=checkpoint, log=lambda line: None)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = small_run(tmp_path / "whole.safetensors")
    whole.run()
    broken = small_run(tmp_path / "broken.safetensors")
    step = Pretraining._step

    def stop(self: Pretraining, number: int):
        if number == 2:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(Pretraining, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    monkeypatch.undo()
    resumed = small_run(tmp_path / "broken.safetensors")
    resumed.run()
    assert resumed.done == whole.done == 4
    for name, value in whole.named.items():
        torch.testing.assert_close(resumed.named[name], value, rtol=0, atol=0, msg=name)
