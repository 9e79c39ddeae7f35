"""What a ridge classifier finds in frozen features of an embedded task."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from safetensors.torch import load_file

from karst_bench.config.datasets import dataset_config
from karst_bench.data.mini import GENERATORS, draw
from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.errors import UserError

ROOT = Path(__file__).parents[2]
BACKBONES = ("vit_mini", "swin_mini")
STRENGTHS = (10.0, 100.0, 1000.0, 5000.0)


def found_lines(words: Sequence[str], weights: str) -> Iterator[str]:
    """A line a word: the task, its difficulty, and the top-1 (%) on both small backbones."""
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
        yield line


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
