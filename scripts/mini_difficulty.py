"""What frozen features give on embedded tasks as they are, or made harder or easier: for choosing a difficulty.

    python scripts/mini_difficulty.py digits textures:noise=24 textures:noise=32,contrast=30

Each word is a task, with values of `dataset.difficulty` that replace its YAML's. Printed for each: top-1 (%) on val200
of a ridge classifier on the standardised pooled features of train800 (its strength, 10 to 5000, chosen on the same
200), on both small backbones (weights=none: with random weights, seed 0). The test split is neither drawn nor read. What
training adds is asked of run.py:

    python run.py method=karst dataset=mini/textures dataset.difficulty.noise=32 protocol=val recipe.lr=1e-2
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
import yaml
from safetensors.torch import load_file

from karst_bench.cli.app import generator
from karst_bench.config.datasets import dataset_config
from karst_bench.data.mini import GENERATORS, draw
from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.errors import UserError

ROOT = Path(__file__).parents[1]
BACKBONES = ("vit_mini", "swin_mini")
Words = Annotated[list[str] | None, typer.Argument(metavar="TASK[:KEY=VALUE,...]")]
STRENGTHS = (10.0, 100.0, 1000.0, 5000.0)


def ridge_pct(train: np.ndarray, labels: np.ndarray, held: np.ndarray, held_labels: np.ndarray) -> float:
    """The best top-1 (%) on held-out features over STRENGTHS of ridge regression onto one-hot labels."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, z = (train - mean) / std, (held - mean) / std
    onehot = np.eye(int(labels.max()) + 1)[labels]
    centred, scores = onehot - onehot.mean(0), []
    for strength in STRENGTHS:
        weight = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ centred)
        scores.append(100 * float(((z @ weight + onehot.mean(0)).argmax(1) == held_labels).mean()))
    return max(scores)


def backbone(name: str, weights: str) -> Any:
    """A small backbone as timm's model without a classifier, in eval mode: as shipped, or random for weights=none."""
    torch.manual_seed(0)
    conf = yaml.safe_load((ROOT / "conf" / "backbone" / f"{name}.yaml").read_text(encoding="utf-8"))
    model = timm.create_model(conf["timm_name"], num_classes=0, **conf["model_args"])
    if weights != "none":
        stored = load_file(ROOT / "karst_bench" / "weights" / f"{name}.safetensors")
        model.load_state_dict({key: value.float() for key, value in stored.items()})
    return model.eval()


@torch.inference_mode()
def pooled(model: Any, pixels: np.ndarray) -> np.ndarray:
    """Pooled features float64 (n, d) of uint8 (n, 3, 32, 32), normalised by 0.5 and 0.5."""
    parts = [model((part.float() - 127.5) / 127.5) for part in torch.from_numpy(pixels).split(200)]
    return torch.cat(parts).double().numpy()


def node(word: str) -> tuple[str, dict[str, Any]]:
    """(task, its YAML's node with the word's values). Raises: UserError for an unknown task, value or form."""
    task, _, changes = word.partition(":")
    if task not in GENERATORS:
        raise UserError(f"no embedded task is called {task!r}; known are {', '.join(GENERATORS)}")
    found = dataset_config(f"mini/{task}")
    for change in filter(None, changes.split(",")):
        name, _, value = change.partition("=")
        found["difficulty"][name] = yaml.safe_load(value)
    return task, found


def main(words: Words = None, weights: str = "pretrained") -> None:
    """Print what frozen features give on embedded tasks, as they are or with other values of difficulty; a line a word."""
    torch.set_num_threads(1)
    models = {name: backbone(name, weights) for name in BACKBONES}
    for word in words or GENERATORS:
        task, found = node(word)
        difficulty, generator, parts = Difficulty.of(found), GENERATORS[task], {}
        train, held = ("pool", "val") if found["shots"] else ("train800", "val200")
        sizes = found["sizes"] | {"pool": 16 * generator.classes}
        for split in (train, held):
            pixels = draw(task, generator, split, sizes[split], difficulty)
            parts[split] = pixels, np.arange(len(pixels)) % generator.classes
        line = f"{task:12s} {difficulty.values()}"
        for name, model in models.items():
            (x, labels), (z, held_labels) = parts[train], parts[held]
            line += f"  {name} {ridge_pct(pooled(model, x), labels, pooled(model, z), held_labels):.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    generator(main)
