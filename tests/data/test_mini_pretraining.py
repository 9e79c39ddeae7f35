"""Pre-training of the small backbones: what it reads, what it draws, and that a broken run goes on as if unbroken."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from karst_bench.cli.app import call
from karst_bench.errors import UserError
from scripts.pretrain_mini import pretrain as run_pretraining
from scripts.pretraining.augment import erase, flip_and_shift, jitter, quarter_turns
from scripts.pretraining.draws import order, step_draws
from scripts.pretraining.images import read_cifar10
from scripts.pretraining.objective import Questions, features
from scripts.pretraining.scenes import GRID, make_scenes
from scripts.pretraining.train import Material, Plan, Pretraining

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


SMALL: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 1},
    "swin_tiny_patch4_window7_224": {"window_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 1]},
}


def small_run(checkpoint: Path, name: str = "vit_tiny_patch16_224", steps: int = 4) -> Pretraining:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=32, **SMALL[name])
    rng = np.random.default_rng(0)
    photos = torch.from_numpy(rng.integers(0, 256, (48, 3, 32, 32), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, len(photos)))
    material = Material.of(photos, labels, make_scenes(20, 0), torch.device("cpu"))
    half = (0.5, 0.5, 0.5)
    plan = Plan(steps=steps, photos=16, scenes=8, lr=1e-3, weight_decay=0.05, warmup=0.25, seed=0)
    heads = Questions(16, 2 if "vit" in name else 4, 10)
    return Pretraining(model, heads, material, plan, mean=half, std=half, checkpoint=checkpoint, log=lambda line: None)


def broken_off(monkeypatch: pytest.MonkeyPatch, training: Pretraining, at: int) -> None:
    step = Pretraining._step

    def stop(self: Pretraining, number: int) -> None:
        if number == at:
            raise KeyboardInterrupt
        step(self, number)

    monkeypatch.setattr(Pretraining, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        training.run()
    monkeypatch.undo()


@pytest.mark.parametrize("name", SMALL)  # a Swin drops layers at random
def test_a_resumed_run_ends_with_the_same_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = small_run(tmp_path / "whole.safetensors", name, steps=7)  # three steps a pass: broken off within the second
    start = {key: p.detach().clone() for key, p in whole.named.items()}
    whole.run()
    assert any((p != start[key]).any() for key, p in whole.named.items())
    broken_off(monkeypatch, small_run(tmp_path / "broken.safetensors", name, steps=7), 5)
    resumed = small_run(tmp_path / "broken.safetensors", name, steps=7)
    resumed.run()
    assert resumed.done == whole.done == 7
    for key, value in whole.named.items():
        torch.testing.assert_close(resumed.named[key], value, rtol=0, atol=0, msg=key)


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path):
    small_run(tmp_path / "kept.safetensors").run()
    with pytest.raises(ValueError, match="belongs to 4 steps with seed 0, this run has 5"):
        small_run(tmp_path / "kept.safetensors", steps=5).run()


@pytest.mark.parametrize("step", [0, 3])
def test_what_a_step_draws_follows_from_seed_and_number(step: int):
    counts = {"photos": 16, "scenes": 8, "all_scenes": 20, "side": 32}
    drawn, again = (step_draws(3, step, **counts) for _ in range(2))
    other = step_draws(3, step + 1, **counts)
    for name, value in drawn.items():
        torch.testing.assert_close(value, again[name], rtol=0, atol=0)
        assert not torch.equal(value, other[name]), name
    assert sorted(order(3, 1, 50).tolist()) == list(range(50))
    assert not torch.equal(order(3, 1, 50), order(3, 2, 50))


def test_augmentations_do_what_was_drawn():
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32) % 251
    flip, middle = torch.tensor([False, True]), torch.full((2, 2), 4)
    still = flip_and_shift(images.to(torch.uint8), flip, middle)
    np.testing.assert_array_equal(still[0], images[0])
    np.testing.assert_array_equal(still[1], images[1].flip(2))
    moved = flip_and_shift(images.to(torch.uint8), torch.zeros(2).bool(), torch.tensor([[5, 4], [4, 2]]))
    np.testing.assert_array_equal(moved[0, :, :31], images[0, :, 1:])
    np.testing.assert_array_equal(moved[1, :, :, 2:], images[1, :, :, :30])
    turned = quarter_turns(images, torch.tensor([1, 2]))
    np.testing.assert_array_equal(turned[0], np.rot90(images[0], 1, (1, 2)))
    np.testing.assert_array_equal(turned[1], np.rot90(images[1], 2, (1, 2)))
    holed = erase(images, torch.tensor([[3, 3], [-5, 30]]), torch.tensor([True, False]))
    assert (holed[0, :, 3:13, :5] == 128).all() and (holed[0] != images[0]).any(0).sum() <= 50
    np.testing.assert_array_equal(holed[1], images[1])
    grey = jitter(images.to(torch.uint8), torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(grey[0], images[0].float())
    torch.testing.assert_close(grey[1, 0], grey[1, 2])


def packed(root: Path) -> Path:
    """Forty noisy JPEGs as both splits."""
    rng, stream = np.random.default_rng(5), []
    for _ in range(40):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG")
        stream.append(np.frombuffer(file.getvalue(), dtype=np.uint8))
    offset = np.cumsum([0, *map(len, stream)])
    for split in ("train", "test"):
        np.savez(root / f"{split}.npz", jpeg=np.concatenate(stream), offset=offset, label=np.arange(40) % 10)
    return root


def pretrain(root: Path, name: str, device: str, steps: int = 3) -> tuple[dict[str, Any], bytes]:
    few = {"steps": steps, "photos_a_step": 16, "scenes_a_step": 8, "scenes": 300}
    facts = run_pretraining(root, backbone=name, device=device, out=root / device, **few)
    file = root / device / f"{name}.safetensors"
    (root / device / f"{name}.checkpoint.safetensors").unlink()
    return facts, file.read_bytes()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_few_steps_on_the_cpu_give_the_same_file_twice(name: str, tmp_path: Path):
    first, second = (pretrain(packed(tmp_path), name, "cpu") for _ in range(2))
    assert first[1] == second[1] and first[0]["sha256"] == hashlib.sha256(first[1]).hexdigest()
    assert first[0]["last_losses"] == second[0]["last_losses"] and first[0]["passes"] == 1.5


@pytest.mark.gpu
def test_the_first_step_on_a_gpu_is_the_cpus(tmp_path: Path):
    """Of the ViT: what a Swin drops is drawn on the device."""
    cpu, cuda = (pretrain(packed(tmp_path), "vit_mini", device, steps=1)[0]["last_losses"] for device in ("cpu", "cuda"))
    for question, loss in cpu.items():
        assert cuda[question] == pytest.approx(loss, rel=0.01, abs=0.005), question


@pytest.mark.gpu
@pytest.mark.parametrize("name", BACKBONES)
def test_the_captured_step_is_the_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    captured = pretrain(packed(tmp_path), name, "cuda")[0]["last_losses"]

    def uncaptured(self: Pretraining) -> None:
        self.inputs = {key: value.to(self.device) for key, value in self._draws(self.done).items()}

    monkeypatch.setattr(Pretraining, "_capture", uncaptured)
    eager = pretrain(packed(tmp_path), name, "cuda")[0]["last_losses"]
    assert captured == pytest.approx(eager, rel=0.02, abs=0.005)


def test_scenes_do_not_depend_on_the_number_of_processes():
    alone, shared = make_scenes(300, 1), make_scenes(300, 1, workers=2)
    np.testing.assert_array_equal(alone.pixels, shared.pixels)
    np.testing.assert_array_equal(alone.dense, shared.dense)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["images=x", "epochs=8"], "'epochs=8' is not an option here"),
        (["backbone=vit_mini"], "argument 'images'"),
        (["images=x", "device=tpu"], "device=tpu is not known; choose auto, cpu or cuda"),
        (["images=x", "backbone=vit_big"], "choose vit_mini or swin_mini"),
        (["images=x", "steps=0"], "steps"),
        (["images=x", "photos_a_step=0"], "photos-a-step"),
    ],
)
def test_wrong_arguments_say_so(words: list[str], text: str, capsys: pytest.CaptureFixture[str]):
    assert call(run_pretraining, words) == 2
    assert text.lower() in capsys.readouterr().err.lower()  # typer 0.20 writes IMAGES
