"""The pre-training loop: photographs and scenes in one batch, resumable, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from scripts.pretraining.augment import erase, flip_and_shift, jitter, quarter_turns
from scripts.pretraining.objective import TURNED_SHARE, Questions, features, photo_loss, scene_loss
from scripts.pretraining.scenes import Scenes

PHOTOS_A_STEP, SCENES_A_STEP = 128, 64
WARMUP_SHARE = 0.06


@dataclass(frozen=True)
class Plan:
    """How long and how fast: epochs over the photographs, peak learning rate, weight decay, seed."""

    epochs: int
    lr: float
    weight_decay: float
    seed: int


@dataclass
class Material:
    """Photographs uint8 (n, 3, 32, 32) with labels (n,), and scenes with what is asked of them."""

    photos: torch.Tensor
    labels: torch.Tensor
    scenes: torch.Tensor
    wanted: dict[str, torch.Tensor]

    @classmethod
    def of(cls, photos: torch.Tensor, labels: torch.Tensor, scenes: Scenes) -> Material:
        """From decoded photographs and made scenes."""
        wanted = {key: torch.from_numpy(getattr(scenes, key)) for key in ("count", "family", "pose", "dense")}
        return cls(photos, labels, torch.from_numpy(scenes.pixels), wanted)


class Pretraining:
    """A backbone, its questions and its optimiser, stepped through a plan.

    mean, std: of the backbone; checkpoint: the file it is saved to and resumed from; log: takes lines of progress.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Questions,
        material: Material,
        plan: Plan,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        checkpoint: Path,
        log: Callable[[str], None],
    ) -> None:
        self.model, self.heads, self.material, self.plan = model, heads, material, plan
        self.mean, self.std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (mean, std))
        self.checkpoint, self.log = checkpoint, log
        self.named = dict(nn.ModuleDict({"model": model, "heads": heads}).named_parameters())
        decay = [p for p in self.named.values() if p.ndim > 1]
        rest = [p for p in self.named.values() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
        self.epoch_steps = len(material.photos) // PHOTOS_A_STEP
        self.steps = plan.epochs * self.epoch_steps
        self.done, self.seconds = 0, 0.0

    def run(self) -> None:
        """All steps from where the checkpoint stands; a checkpoint and a line of progress every quarter of an epoch."""
        self._resume()
        self.model.train()
        every = max(1, self.epoch_steps // 4)
        start, first = time.monotonic() - self.seconds, self.done
        began = time.monotonic()
        while self.done < self.steps:
            losses = self._step(self.done)
            self.done += 1
            if self.done % every == 0 or self.done == self.steps:
                self.seconds = time.monotonic() - start
                self._report(losses, (self.done - first) / (time.monotonic() - began))
                self._save()

    def _report(self, losses: dict[str, torch.Tensor], steps_a_second: float) -> None:
        shown = " ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
        images = steps_a_second * (PHOTOS_A_STEP + SCENES_A_STEP)
        left = (self.steps - self.done) / steps_a_second / 60
        epoch = self.done / self.epoch_steps
        self.log(f"step {self.done}/{self.steps} epoch {epoch:.2f} {shown} {images:.0f} images/s, {left:.0f} min left")

    def _rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 0."""
        warm = WARMUP_SHARE * self.steps
        if step < warm:
            return self.plan.lr * (step + 1) / warm
        return self.plan.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))

    def _order(self, epoch: int, n: int, salt: int) -> torch.Tensor:
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.plan.seed * 1009 + 2 * epoch + salt))

    def _step(self, step: int) -> dict[str, torch.Tensor]:
        """One step; everything random in it follows from the seed and the step's number."""
        epoch, within = divmod(step, self.epoch_steps)
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
        chosen = self._order(epoch, len(self.material.photos), 0)[within * PHOTOS_A_STEP :][:PHOTOS_A_STEP]
        scenes = torch.randint(0, len(self.material.scenes), (SCENES_A_STEP,), generator=generator)
        photos = flip_and_shift(self.material.photos[chosen], generator)
        turned = PHOTOS_A_STEP // TURNED_SHARE
        photos[:turned], turns = quarter_turns(photos[:turned], generator)
        photos = erase(jitter(photos, generator), generator)
        drawn = jitter(self.material.scenes[scenes], generator)
        pooled, tokens = features(self.model, (torch.cat([photos, drawn]) - self.mean) / self.std)
        n = len(photos)
        losses = photo_loss(self.heads, pooled[:n], self.material.labels[chosen], turns)
        want = {key: value[scenes] for key, value in self.material.wanted.items()}
        losses |= scene_loss(self.heads, pooled[n:], tokens[n:], want)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(step)
        self.optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(list(self.named.values()), 1.0)
        self.optimiser.step()
        return {name: value.detach() for name, value in losses.items()}

    def _save(self) -> None:
        tensors = {f"value.{name}": p.detach() for name, p in self.named.items()}
        for name, p in self.named.items():
            for key, value in self.optimiser.state[p].items():
                tensors[f"{key}.{name}"] = value
        state = {"done": self.done, "seconds": round(self.seconds, 1), "steps": self.steps, "seed": self.plan.seed}
        write_tensors(self.checkpoint, tensors, {"state": json.dumps(state)})

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        with safe_open(self.checkpoint, "pt") as file:
            state = json.loads(file.metadata()["state"])
        if (state["steps"], state["seed"]) != (self.steps, self.plan.seed):
            raise ValueError(
                f"{self.checkpoint} belongs to {state['steps']} steps with seed {state['seed']}, this run has "
                f"{self.steps} with seed {self.plan.seed}; give the same epochs and seed, or delete the file"
            )
        tensors = load_file(self.checkpoint)
        for name, p in self.named.items():
            p.data.copy_(tensors[f"value.{name}"])
            self.optimiser.state[p] = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        self.done, self.seconds = state["done"], state["seconds"]
        self.log(f"resumed at step {self.done}/{self.steps}")


@torch.no_grad()
def top1_pct(
    model: nn.Module,
    heads: Questions,
    photos: torch.Tensor,
    labels: torch.Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> float:
    """Share of photographs whose class is named rightly, in percent."""
    model.eval()
    centre, scale = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (mean, std))
    right = 0
    for start in range(0, len(photos), 500):
        pooled, _ = features(model, (photos[start : start + 500].float() - centre) / scale)
        right += int((heads.ask("classes", pooled).argmax(1) == labels[start : start + 500]).sum())
    return 100 * right / len(photos)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Writes a safetensors file in one move and returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: value.contiguous() for name, value in tensors.items()}, fresh, metadata)
    fresh.chmod(0o644)
    fresh.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
