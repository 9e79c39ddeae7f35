"""The pre-training loop: photographs and scenes in one batch, resumable, on a CPU or as one captured CUDA graph a step."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from karst_bench import files
from scripts.pretraining.augment import erase, flip_and_shift, jitter, quarter_turns
from scripts.pretraining.draws import Draws, order, step_draws
from scripts.pretraining.objective import Questions, features, photo_loss, scene_loss
from scripts.pretraining.scenes import Scenes

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter


@dataclass(frozen=True)
class Plan:
    """Steps; photographs and scenes in each; peak learning rate, weight decay, warm-up as a share of steps, seed."""

    steps: int
    photos: int
    scenes: int
    lr: float
    weight_decay: float
    warmup: float
    seed: int

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine to 0."""
        warm = self.warmup * self.steps
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))


@dataclass
class Material:
    """Photographs uint8 (n, 3, 32, 32) with labels (n,), and scenes with what is asked of them, on one device."""

    photos: torch.Tensor
    labels: torch.Tensor
    scenes: torch.Tensor
    wanted: dict[str, torch.Tensor]

    @classmethod
    def of(cls, photos: torch.Tensor, labels: torch.Tensor, scenes: Scenes, device: torch.device) -> Self:
        """From decoded photographs and made scenes."""
        wanted = {key: torch.from_numpy(getattr(scenes, key)) for key in ("count", "family", "pose", "dense")}
        return cls(
            photos.to(device),
            labels.to(device),
            torch.from_numpy(scenes.pixels).to(device),
            {key: value.to(device) for key, value in wanted.items()},
        )


class Pretraining:
    """A backbone, its questions and its optimiser, stepped through a plan on the material's device.

    mean, std: of the backbone; checkpoint: the file it is saved to and resumed from; log: takes lines of progress.
    Raises: ValueError where the checkpoint belongs to another plan.
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
        self.device = material.photos.device
        self.model, self.heads, self.material, self.plan = model, heads, material, plan
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in (mean, std))
        self.checkpoint, self.log = checkpoint, log
        self.named = dict(nn.ModuleDict({"model": model, "heads": heads}).to(self.device).named_parameters())
        self.lr = torch.zeros((), device=self.device)
        decay = [p for p in self.named.values() if p.ndim > 1]
        rest = [p for p in self.named.values() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=self.lr, weight_decay=plan.weight_decay, fused=True, capturable=self.device.type == "cuda"
        )
        self.epoch_steps = len(material.photos) // plan.photos
        self.done, self.seconds = 0, 0.0
        self.order: dict[int, torch.Tensor] = {}  # of the pass under way
        self.inputs: Draws = self._draws(0)
        self.losses: dict[str, torch.Tensor] = {}
        self.replay: Callable[[], None] = self._compute

    def run(self) -> None:
        """All steps from where the checkpoint stands; a checkpoint and a line of progress forty times in all."""
        self._resume()
        self.model.train()
        if self.device.type == "cuda":
            self._capture()
        every = max(1, self.plan.steps // 40)
        start, first = time.monotonic() - self.seconds, self.done
        began = time.monotonic()
        while self.done < self.plan.steps:
            self._step(self.done)
            self.done += 1
            if self.done % every == 0 or self.done == self.plan.steps:
                losses = {name: float(value) for name, value in self.losses.items()}  # waits for the device
                self.seconds = time.monotonic() - start
                self._report(losses, (self.done - first) / (time.monotonic() - began))
                self._save()

    def _report(self, losses: dict[str, float], steps_a_second: float) -> None:
        shown = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        images = steps_a_second * (self.plan.photos + self.plan.scenes)
        left, passes = (self.plan.steps - self.done) / steps_a_second / 60, self.done / self.epoch_steps
        self.log(
            f"step {self.done}/{self.plan.steps} pass {passes:.2f} {shown} {images:.0f} images/s, {left:.1f} min left"
        )

    def _draws(self, step: int) -> Draws:
        """Everything random in a step, on the CPU."""
        plan, (epoch, within) = self.plan, divmod(step, self.epoch_steps)
        if epoch not in self.order:
            self.order = {epoch: order(plan.seed, epoch, len(self.material.photos))}
        counts = {"photos": plan.photos, "scenes": plan.scenes, "all_scenes": len(self.material.scenes)}
        drawn = step_draws(plan.seed, step, side=self.material.photos.shape[-1], **counts)
        return drawn | {"photos": self.order[epoch][within * plan.photos :][: plan.photos]}

    def _step(self, step: int) -> None:
        """One step; everything random in it follows from the seed and the step's number."""
        for name, value in self._draws(step).items():
            self.inputs[name].copy_(value, non_blocking=True)
        self.lr.fill_(self.plan.rate(step))
        torch.manual_seed(self.plan.seed * 1_000_003 + step)  # for the layers that a Swin drops; a graph reads it anew
        self.replay()

    def _compute(self) -> None:
        """Augmentation, forward, backward and update of what `inputs` say, without a wait for the device."""
        drawn, material = self.inputs, self.material
        photos = flip_and_shift(material.photos[drawn["photos"]], drawn["flip"], drawn["shift"])
        turned = len(drawn["turns"])
        photos = torch.cat([quarter_turns(photos[:turned], drawn["turns"]), photos[turned:]])
        photos = erase(jitter(photos, drawn["photo_scale"]), drawn["corner"], drawn["hole"])
        scenes = jitter(material.scenes[drawn["scenes"]], drawn["scene_scale"])
        pooled, tokens = features(self.model, (torch.cat([photos, scenes]) - self.mean) / self.std)
        n = len(photos)
        losses = photo_loss(self.heads, pooled[:n], material.labels[drawn["photos"]], drawn["turns"])
        want = {key: value[drawn["scenes"]] for key, value in material.wanted.items()}
        losses |= scene_loss(self.heads, pooled[n:], tokens[n:], want)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(list(self.named.values()), 1.0, foreach=True)
        self.optimiser.step()
        self.losses = {name: value.detach() for name, value in losses.items()}

    def _capture(self) -> None:
        """Records `_compute` as one CUDA graph; the steps that warm it up are taken back."""
        self.inputs = {name: value.to(self.device) for name, value in self._draws(self.done).items()}
        values = {name: p.detach().clone() for name, p in self.named.items()}
        kept = {
            name: {key: self.optimiser.state[p][key].clone() for key in MOMENTS}
            for name, p in self.named.items()
            if p in self.optimiser.state
        }
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._compute()
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(values[name])
                for key in MOMENTS:
                    state = self.optimiser.state[p][key]
                    state.copy_(kept[name][key]) if name in kept else state.zero_()
        self.replay = graph.replay

    def _save(self) -> None:
        tensors = {f"value.{name}": p.detach() for name, p in self.named.items()}
        for name, p in self.named.items():
            for key, value in self.optimiser.state[p].items():
                tensors[f"{key}.{name}"] = value
        state = {"done": self.done, "seconds": round(self.seconds, 1), "steps": self.plan.steps, "seed": self.plan.seed}
        write_tensors(self.checkpoint, tensors, {"state": json.dumps(state)})

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        with safe_open(self.checkpoint, "pt") as file:
            state = json.loads(file.metadata()["state"])
        if (state["steps"], state["seed"]) != (self.plan.steps, self.plan.seed):
            raise ValueError(
                f"{self.checkpoint} belongs to {state['steps']} steps with seed {state['seed']}, this run has "
                f"{self.plan.steps} with seed {self.plan.seed}; give the same steps and seed, or delete the file"
            )
        tensors = load_file(self.checkpoint, device=str(self.device))
        for name, p in self.named.items():
            p.data.copy_(tensors[f"value.{name}"])
            self.optimiser.state[p] = {key: tensors[f"{key}.{name}"] for key in MOMENTS}
        self.done, self.seconds = state["done"], state["seconds"]
        self.log(f"resumed at step {self.done}/{self.plan.steps}")


@torch.no_grad()
def top1_pct(
    model: nn.Module,
    heads: Questions,
    photos: torch.Tensor,
    labels: torch.Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> float:
    """Share of photographs whose class is named rightly, in percent; all on the model's device."""
    model.eval()
    centre, scale = (torch.tensor(v, device=photos.device).view(1, 3, 1, 1) * 255 for v in (mean, std))
    right = 0
    for start in range(0, len(photos), 500):
        pooled, _ = features(model, (photos[start : start + 500].float() - centre) / scale)
        right += int((heads.ask("classes", pooled).argmax(1) == labels[start : start + 500]).sum())
    return 100 * right / len(photos)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Writes a safetensors file in one move and returns its SHA-256: the same for the same tensors and metadata."""
    blob = _ordered(save({name: value.contiguous().cpu() for name, value in tensors.items()}, metadata))
    files.write(path, blob, once=False)
    return hashlib.sha256(blob).hexdigest()


def _ordered(blob: bytes) -> bytes:
    """A safetensors file with its header's keys in order: the library writes metadata in another order each time."""
    end = 8 + int.from_bytes(blob[:8], "little")
    text = json.dumps(json.loads(blob[8:end]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + blob[end:]
