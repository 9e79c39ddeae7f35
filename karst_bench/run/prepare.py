"""Everything a run is made of, found and checked before anything is computed."""

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.backbone import build_backbone, own_values
from karst_bench.adapt.speed.activation_recompute import recompute
from karst_bench.adapt.speed.cls_token_block import class_token_only
from karst_bench.adapt.speed.shared_backbone import SharedBackbones
from karst_bench.adapt.weights_file import find_weights, weights_sha256
from karst_bench.config.option_files import option_config
from karst_bench.config.places import cpu_has_bf16
from karst_bench.config.settings import Node, Settings
from karst_bench.data import find_task, load_task
from karst_bench.data.augment.policy import augmentation
from karst_bench.data.loader import SplitBatches
from karst_bench.data.resize import normalisation
from karst_bench.data.task import Task
from karst_bench.engine.objective import PaceSettings
from karst_bench.engine.protocols import EvaluationPlan, plan, split_of
from karst_bench.engine.speed import choose_speed
from karst_bench.engine.streams import Streams, seeded
from karst_bench.errors import UserError
from karst_bench.methods.base import Artefact, Method
from karst_bench.methods.build import build_methods
from karst_bench.records.identity import identify

TEST_BATCH = 256  # images in a step of evaluation
BACKBONES = SharedBackbones()  # those of this process
Statistics = tuple[float, float, float]


@dataclass(frozen=True)
class PreparedRun:
    """The parts of one run. settings: with the backbone's own input size and statistics; mean, std: of the normalisation; alike:
    how many runs of this process have its model."""

    settings: Settings
    methods: list[Method]
    weights: Path | None
    weights_sha256: str | None
    device: torch.device
    task: Task
    mean: Statistics
    std: Statistics
    plan: EvaluationPlan
    id: str
    pace: PaceSettings | None = None
    alike: int = 1

    @property
    def title(self) -> str:
        """What a person calls this run."""
        return self.settings.title

    @property
    def mixing(self) -> tuple[float, float] | None:
        """The a of mixup's and of cutmix's Beta(a, a), or None where batches are not mixed."""
        alphas = self.settings.augment["mixup"], self.settings.augment["cutmix"]
        return alphas if any(alphas) else None

    @property
    def remarks(self) -> list[str]:
        """What the run says at its start and in its record: what `tuned` left open, and a batch that no set fills."""
        recipe, n = self.settings.recipe, len(self.task.splits[self.plan.train])
        alone = [f"recipe.drop_last: {n} images make no batch of {recipe.batch}; the only batch is kept"]
        said = [*self.settings.tuned.get("said", ()), *(alone if recipe.drop_last and n < recipe.batch else [])]
        return [*said, *too_few_steps(self.settings, recipe.epochs * -(-n // recipe.batch))]

    def batches(self, split: str, *, train: bool = False, size: int = TEST_BATCH) -> SplitBatches:
        """The split as normalised batches, of `size` images where it is not trained on; augmented where it is."""
        settings = self.settings
        augment = None
        if train:
            augment = augmentation(settings.augment, size=settings.backbone["input_size"], mean=self.mean, std=self.std)
        return SplitBatches(self.task.splits[split], batch=settings.recipe.batch if train else size, mean=self.mean,
                            std=self.std, device=self.device, augment=augment,
                            drop_last=train and settings.recipe.drop_last)  # fmt: skip

    def backbone(self) -> nn.Module:
        """The unadapted backbone with a head drawn from the global generator, on the device.

        Frozen tensors are shared by the runs of this process.
        """
        settings = self.settings
        return BACKBONES.build(
            settings.backbone, classes=settings.dataset["classes"], weights=self.weights,
            drop_path=settings.recipe.drop_path, device=str(self.device),
        )  # fmt: skip

    @property
    def speed(self) -> str:
        """How steps are run: eager, graph or compile. PACE's objective differs from step to step: eager."""
        settings = self.settings
        if self.pace is not None:
            return "eager"
        steps = settings.recipe.epochs * -(-len(self.task.splits[self.plan.train]) // settings.recipe.batch)
        return choose_speed(settings.speed, self.device, self.methods, steps=steps * self.alike, recompute=settings.recompute)

    def model(self, streams: Streams, artefacts: Mapping[str, Artefact]) -> nn.Module:
        """The backbone with its methods attached, on the device. artefacts: what scored methods found (run/scoring.py).

        A GPU computes norms and GELUs again in backward, as a compiler would; recompute=true also builds changed weights again.
        """
        settings = self.settings
        with seeded(streams.init):
            net = self.backbone()
            attach_methods(net, self.methods, artefacts=artefacts, method_settings=method_settings(settings))
        BACKBONES.own_trained(net)
        class_token_only(net)
        if settings.recompute or (self.device.type == "cuda" and self.speed != "compile"):
            recompute(net, weights=settings.recompute)
        return net.to(self.device)


def prepare(settings: Settings, *, alike: int = 1) -> PreparedRun:
    """Finds and reads what a run needs: methods, data, weights, plan and id. Nothing is computed, nothing global changes.

    Raises: UserError naming all that is missing or wrong.
    """
    methods = build_methods(method_settings(settings))
    refuse_stages_together(methods)
    pace = _pace(settings, methods)
    settings = with_own_values(settings)
    weights = _find_data_then_weights(settings)
    device = pick_device(settings.device)
    backbone, dataset = settings.backbone, settings.dataset
    refuse_unfit(settings)
    choose_speed(settings.speed, device, methods, steps=0, recompute=settings.recompute)  # refuses what this device has not
    task = load_task(dataset, data_root=settings.paths.data, cache_root=settings.paths.cache, cache_gb=settings.cache_gb,
                     size=backbone["input_size"], canvas=settings.augment["canvas"])  # fmt: skip
    mean, std = normalisation(settings.normalization, backbone["mean"], backbone["std"])
    for method in methods:  # said now, not after hours of another stage
        if stages := method.search_stages():
            for split in (stages.supernet.split, stages.evolve.split):
                split_of(split, task.splits, wanted_by=f"{method.name}'s search")
    sha256 = weights_sha256(weights, settings.paths.weights)
    return PreparedRun(
        settings=settings, methods=methods, weights=weights, weights_sha256=sha256, device=device, task=task, mean=mean,
        std=std, plan=plan(settings.protocol, settings.recipe.epochs, task.splits),
        id=identify(settings.as_config(), weights_sha256=sha256, list_sha256=task.list_sha256, encoding=task.encoding,
                    pixels_sha256=task.pixels_sha256),
        pace=pace, alike=alike,
    )  # fmt: skip


def refuse_stages_together(methods: Sequence[Method]) -> None:
    """Raises a UserError where one method searches and another has a pre-pass: each wants the other to be attached first."""
    searched = [method.name for method in methods if method.search_stages()]
    scored = [method.name for method in methods if method.scored]
    if searched and scored:
        raise UserError(f"{searched[0]} searches a supernet and {scored[0]} is scored before it is attached; run one of them")


def refuse_unfit(settings: Settings) -> None:
    """Attaches the methods to the backbone's shapes, before data are read: minutes for a large set.

    Raises: UserError where timm cannot build the backbone, or a method cannot stand on it.
    """
    _attach_to_shapes(json.dumps({"backbone": settings.backbone, "classes": settings.dataset["classes"],
                                  "methods": method_settings(settings)}))  # fmt: skip


@functools.lru_cache(maxsize=256)
def _attach_to_shapes(said: str) -> None:
    """Remembered by what was said: the runs of a sweep share it."""
    asked = json.loads(said)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        net = build_backbone(asked["backbone"], classes=asked["classes"], weights=None, device="meta")
        attach_methods(net, build_methods(asked["methods"]))


def _pace(settings: Settings, methods: Sequence[Method]) -> PaceSettings | None:
    pace = PaceSettings.of(settings.regularizer)
    if pace is not None and (searched := [method.name for method in methods if method.search_stages()]):
        raise UserError(f"regularizer=pace is not defined for the supernet that {searched[0]} searches; use regularizer=none")
    if pace is not None and settings.speed in ("graph", "compile"):
        raise UserError(f"regularizer=pace changes from step to step, which speed={settings.speed} does not follow; leave one out")
    if pace is not None and pace.mode == "fast" and any((settings.augment["mixup"], settings.augment["cutmix"])):
        raise UserError("regularizer.mode=fast compares an image with itself an epoch before, which mixing changes; use mode=pace")
    return pace


def method_settings(settings: Settings) -> dict[str, Node]:
    """The groups that say which methods are attached, as an adapter file stores them."""
    return {"method": settings.method, "also": settings.also, "extra": settings.extra}


def with_own_values(settings: Settings) -> Settings:
    """The settings with the backbone's own input size, mean and std where its group leaves them open."""
    return settings.replace(backbone=settings.backbone | own_values(settings.backbone))


def _find_data_then_weights(settings: Settings) -> Path | None:
    """Both are looked for before either is read, so that one message names all that is missing."""
    problems: list[str] = []

    def attempt(find: Callable[[], Path | None]) -> Path | None:
        try:
            return find()
        except UserError as error:
            problems.append(str(error))
            return None

    if settings.dataset["source"] != "mini":
        attempt(lambda: find_task(settings.dataset, data_root=settings.paths.data))
    weights = attempt(lambda: find_weights(settings.backbone, settings.paths.weights))
    if problems:
        raise UserError("\n".join(problems))
    return weights


def pick_device(wanted: str) -> torch.device:
    """auto takes CUDA where there is one. Raises: UserError for cuda without a device."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def too_few_steps(settings: Settings, steps: int) -> list[str]:
    """What to say where a method's own learning rate is meant for more steps than there are (`about.steps` of its file)."""
    meant = (settings.method.get("about") or {}).get("steps")
    if meant is None or steps >= meant:
        return []
    own = option_config("method", settings.method["name"])["recipe"]["lr"]
    if settings.recipe.lr != own:
        return []
    return [f"{settings.method['name']}'s own recipe.lr={own:g} is meant for ViT-B/16 and thousands of steps, and this run has"
            f" {steps}: it may stay at chance. Give recipe.lr=, search one (karst-bench tune), or take tuned=ours where listed"]


def slow_bf16(precision: str, device: torch.device) -> bool:
    """Whether bf16 would be emulated: a CPU without AMX or AVX512-bf16 (measured: 7 to 9 times slower than fp32)."""
    return precision == "bf16" and device.type == "cpu" and not cpu_has_bf16()


def crowded(device: torch.device, threads: int) -> bool:
    """Whether other programs want the cores that several threads would wait for each other on."""
    if device.type != "cpu" or threads < 2 or not hasattr(os, "getloadavg"):
        return False
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def use_threads(wanted: int | None) -> int:
    """Gives torch this many threads (None: its own choice), for the whole process, and returns how many it has."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()
