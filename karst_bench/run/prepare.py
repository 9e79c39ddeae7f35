"""Everything a run is made of, found and checked before anything is computed."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from karst_bench import engine
from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.backbone import own_values
from karst_bench.adapt.speed.activation_recompute import recompute
from karst_bench.adapt.speed.cls_token_block import class_token_only
from karst_bench.adapt.speed.shared_backbone import SharedBackbones
from karst_bench.adapt.weights_file import find_weights, weights_sha256
from karst_bench.data import find_task, load_task
from karst_bench.data.augment.policy import augmentation, normalisation
from karst_bench.data.loader import Batches
from karst_bench.data.task import Task
from karst_bench.engine import Recipe, Streams
from karst_bench.errors import UserError
from karst_bench.methods.base import Method
from karst_bench.methods.build import build_methods
from karst_bench.records.identity import identify

TEST_BATCH = 256  # images in a step of evaluation
POOL = SharedBackbones()  # the backbones of this process


class PreparedRun:
    """The parts of one run: methods, data, weights, plan and id. Raises: UserError naming all that is missing or wrong."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.methods: list[Method] = build_methods(settings)
        if settings["compile"] and settings["recompute"]:
            raise UserError("compile=true decides by itself what to recompute; leave out recompute=true")
        settings["backbone"] |= own_values(settings["backbone"])
        backbone, dataset = settings["backbone"], settings["dataset"]
        self.recipe = Recipe(**settings["recipe"])
        self.weights = self._find_data_then_weights()
        self.device = pick_device(settings["device"])
        self.threads = set_threads(settings["threads"])
        if slow_bf16(settings["precision"], self.device):
            print("note: this CPU has no bf16 arithmetic; precision=fp32 is several times faster here", file=sys.stderr)
        self.task: Task = load_task(
            dataset, data_root=settings["paths"]["data"], cache_root=settings["paths"]["cache"],
            cache_gb=settings["cache_gb"], size=backbone["input_size"], augment=settings["recipe"]["augment"],
        )  # fmt: skip
        self.mean, self.std = normalisation(settings["normalization"], backbone["mean"], backbone["std"])
        self.weights_sha256 = weights_sha256(self.weights, Path(settings["paths"]["weights"]))
        self.plan = engine.plan(settings["protocol"], self.recipe.epochs, self.task.splits)
        self.id = identify(settings, weights_sha256=self.weights_sha256, list_sha256=self.task.list_sha256,
                           encoding=self.task.encoding)  # fmt: skip
        names = "+".join(
            [settings["method"]["name"], *([settings["also"]["name"]] if settings["also"]["name"] != "none" else [])]
        )
        self.title = f"{names} on {dataset['name']} ({backbone['name']}, seed {settings['seed']})"

    def _find_data_then_weights(self) -> Path | None:
        """Both are looked for before either is read, so that one message names all that is missing."""
        problems = []
        for find in (lambda: self._find_data(), lambda: self._find_weights()):
            try:
                found = find()
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        return found

    def _find_data(self) -> None:
        if self.settings["dataset"]["source"] != "mini":
            find_task(self.settings["dataset"], data_root=Path(self.settings["paths"]["data"]))

    def _find_weights(self) -> Path | None:
        return find_weights(self.settings["backbone"], Path(self.settings["paths"]["weights"]))

    def batches(self, split: str, *, train: bool = False) -> Batches:
        """The split as normalised batches; augmented where it is trained on."""
        augment = augmentation(self.settings["recipe"]["augment"], size=self.settings["backbone"]["input_size"],
                               mean=self.mean, std=self.std) if train else None  # fmt: skip
        return Batches(self.task.splits[split], batch=self.recipe.batch if train else TEST_BATCH, mean=self.mean,
                       std=self.std, device=self.device, augment=augment)  # fmt: skip

    def model(self, streams: Streams) -> nn.Module:
        """The backbone with its methods attached, on the device; frozen tensors are shared by the runs of this process."""
        method_settings = {node: self.settings[node] for node in ("method", "also", "extra")}
        with engine.seeded(streams.init):
            net = POOL.build(
                self.settings["backbone"],
                classes=self.settings["dataset"]["classes"],
                weights=self.weights,
                drop_path=self.recipe.drop_path,
                device=str(self.device),
            )
            attach_methods(net, self.methods, method_settings=method_settings)
        POOL.own_trained(net)
        class_token_only(net)
        if self.settings["recompute"]:
            recompute(net)
        net = net.to(self.device)
        if self.settings["compile"] and not engine.compile_step(net, self.methods, self.device):
            print(f"note: {self.title} makes choices at every step; it runs without compile=true", file=sys.stderr)
        return net


def pick_device(wanted: str) -> torch.device:
    """auto takes CUDA where there is one. Raises: UserError for cuda without a device."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def slow_bf16(precision: str, device: torch.device) -> bool:
    """Whether bf16 would be emulated: a CPU without AMX or AVX512-bf16 (measured: 7 to 9 times slower than fp32)."""
    if precision != "bf16" or device.type != "cpu":
        return False
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "bf16" not in flags.read_text()


def set_threads(wanted: int | None) -> int:
    """Gives torch this many threads (null: its own choice) and returns how many it has."""
    if wanted is not None:
        if wanted < 1:
            raise UserError(f"threads={wanted} must be at least 1")
        torch.set_num_threads(wanted)
    return torch.get_num_threads()
