"""What the suite costs on a GPU: steps eager, captured and compiled, every method, one layer, whole runs, evaluation.

Nothing is written without a GPU. All rows of a table are measured in turns in one process, and each ratio is to the floor run
in the same mode. bf16 autocast; the clock is the wall, the device waited for.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.forms import layer
from benchmarks.measure import Keep, forget, interleaved, summary, trainer
from benchmarks.phases import image_folder, run, run_in_mode
from benchmarks.rows import CLASSES, ROWS, Case, karst, of_method
from benchmarks.steps import counted, memory
from karst_bench.adapt.merge import merge
from karst_bench.adapt.speed.activation_recompute import recompute
from karst_bench.adapt.speed.compiled_trunk import CompiledTrunk
from karst_bench.config.option_files import options
from karst_bench.engine.captured import CapturedForward, CudaRecorder, Recorder
from karst_bench.errors import UserError

STEPS = ("floor", "floor again (A/A)", "LoRA qkv r 8, ours", "LoRA qkv r 8, peft", "LoRA on four linears r 8, ours",
         "LoRA on four linears r 8, peft", "KARST, published arithmetic (a)", "KARST, ours, all tokens", "KARST, ours",
         "KARST, nothing made again", "KARST, ours, recompute", "full")  # fmt: skip
MODES = ("eager", "captured", "compiled and captured")
NO_MODE = {
    "KARST, ours, recompute": ("compiled and captured",),
    "KARST, nothing made again": ("compiled and captured",),
    "LoRA qkv r 8, peft": (),
    "full": (),
}  # a compiler decides itself
GPU_ROWS = ROWS | {"KARST, ours, recompute": karst, "KARST, nothing made again": karst}
WARM = 3
EVALUATED = 256  # images in a batch of evaluation


class NoRecorder:
    """Does the work again instead of replaying it: where there is no GPU, for the program's own test."""

    def warm_up(self, work: Callable[[], object]) -> None:
        work()

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        return work


def recorder_of(device: torch.device) -> Recorder:
    return CudaRecorder(device) if device.type == "cuda" else NoRecorder()  # type: ignore[return-value]


def recorded(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """What does the work again, recorded after it was warmed up."""
    recorder = recorder_of(device)
    recorder.warm_up(work)
    return recorder.record(work)


def finish_of(device: torch.device) -> Callable[[], object]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def measured(
    case: Case, rounds: int, device: torch.device, backend: str = "inductor", only: Sequence[str] | None = None,
    keep: Keep = forget, before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Steps of each row in each mode, operations, memory, and the seconds that compiling and capturing took.

    before: rows that are there already; a mode of which all are is not measured again.
    """
    x, y = batch_of(case, device)
    table: dict[str, Any] = dict(before or {})
    result = about("training step (forward, backward, fused AdamW), drop-path 0", case, rounds) | {"rows": table}
    for mode in MODES:
        steps, facts = {}, {}
        asked = STEPS if only is None else ["floor", *(name for name in STEPS if name in only and name != "floor")]
        names = [name for name in asked if mode not in NO_MODE.get(name, ())]
        if all(f"{name}, {mode}" in table for name in names):
            continue
        for name in names:
            start = time.perf_counter()
            try:
                steps[name], facts[name] = in_mode(as_run(name, case, mode).to(device), mode, x, y, name, backend)
            except Exception as error:  # a row that cannot run is a result
                facts[name] = {"failed": f"{type(error).__name__}: {str(error)[:120]}"}
            facts[name]["prepare_s"] = round(time.perf_counter() - start, 1)
        rows = summary(interleaved(steps, rounds, finish_of(device), WARM), "floor")
        for fact in facts.values():
            if "with_weights_bytes" in fact:
                fact["with_weights_ratio"] = round(fact["with_weights_bytes"] / facts["floor"]["with_weights_bytes"], 3)
        table |= {f"{name}, {mode}": rows.get(name, {}) | facts[name] for name in facts}
        keep(result)
        del steps
        gc.collect()
    return result


def as_run(name: str, case: Case, mode: str) -> nn.Module:
    """A row's model as a run on a GPU has it: but under a compiler, norms and GELUs before changed layers are made again."""
    net = GPU_ROWS[name](case)
    if getattr(net, "_adapted_model", None) is not None and "compiled" not in mode and name != "KARST, nothing made again":
        recompute(net, weights=name.endswith("recompute"))
    return net


def in_mode(
    net: nn.Module, mode: str, x: Tensor, y: Tensor, key: object, backend: str = "inductor"
) -> tuple[Callable[[], object], dict[str, Any]]:
    """(one step, facts of it): operations and memory where the mode lets them be seen.

    Raises: UserError for a step that should be compiled and was not.
    """
    captured = mode != "eager"
    trunk = CompiledTrunk(net, key=(key, x.shape), backend=backend) if "compiled" in mode else None
    plain = trainer(trunk or net, autocast=True, captured=captured)

    def step() -> None:
        plain(x, y)

    if not captured:
        kept = memory({"floor": net}, x, autocast=True)["floor"]
        return step, counted(step, x.device) | {key: value for key, value in kept.items() if key.endswith("_bytes")}
    replay = recorded(step, x.device)
    if trunk is not None and not trunk.compiled:
        raise UserError("it did not compile in one piece")
    return replay, {}


def methods(
    case: Case, rounds: int, device: torch.device, *, only: Sequence[str] | None = None, modes: Sequence[str] = MODES[:2],
    keep: Keep = forget, before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A step of every method, eager and captured, against the floor in the same mode. before: rows that are there already."""
    x, y = batch_of(case, device)
    table: dict[str, Any] = dict(before or {})
    result = about("training step of every method, drop-path 0", case, rounds) | {"rows": table}
    for mode in modes:
        floor, _ = in_mode(ROWS["floor"](case).to(device), mode, x, y, "floor")
        for name in (name for name in options("method") if name != "none" and (only is None or name in only)):
            if f"{name}, {mode}" in table:
                continue
            try:
                net = of_method(case, name)
                recompute(net)
                step, facts = in_mode(net.to(device), mode, x, y, name)
                rows = summary(interleaved({"floor": floor, name: step}, rounds, finish_of(device), WARM), "floor")
                table[f"{name}, {mode}"] = rows[name] | facts
                del net, step
            except UserError:
                continue  # it is not defined on this family
            except Exception as error:  # a row that cannot run is a result
                table[f"{name}, {mode}"] = {"failed": f"{type(error).__name__}: {str(error)[:120]}"}
            keep(result)
            gc.collect()
    return result


def evaluation(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """A batch of evaluation, KARST merged, eager and captured, and the share of the device's own product rate that it reaches."""
    net = merge(karst(case)).to(device).eval()
    x = torch.randn(case.batch, 3, *net.patch_embed.img_size, device=device)  # type: ignore[union-attr,misc]

    @torch.no_grad()
    def eager(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits: Tensor = net(x)
        return logits

    captured = CapturedForward(eager, recorder_of(device))
    size = 8192 if device.type == "cuda" else 256
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    work = {"eager": lambda: eager(x), "captured": lambda: captured(x), "product": lambda: a @ a}
    rows = summary(interleaved(work, rounds, finish_of(device), WARM), "eager")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        eager(x)
    product_rate = 2 * size**3 / max(rows["product"]["wall_median_s"], 1e-9)
    for name in ("eager", "captured"):
        rate = counter.get_total_flops() / max(rows[name]["wall_median_s"], 1e-9)
        rows[name] |= {"share_of_product_rate": round(rate / product_rate, 3)}
    return about("evaluation pass, merged", case, rounds) | {"rows": rows}


def forms(rounds: int, device: torch.device, tokens: Sequence[int] = (6304, 12608), keep: Keep = forget) -> dict[str, Any]:
    """One KARST linear in each of its forms, captured: where the constants of karst_bench.adapt.linear_forms come from."""
    shapes = [(192, 768, 1), (768, 2304, 3), (768, 768, 1), (768, 3072, 1), (3072, 768, 1)]
    rows: dict[str, Any] = {}
    result = {"what": "one linear layer, forward and backward, captured, bf16", "rounds": rounds, "clock": "wall", "rows": rows}
    for d_in, d_out, chunks in shapes:
        for T in tokens:
            again = partial(recorded, device=device)
            rows[f"{d_in}->{d_out} T {T}"] = layer(d_in, d_out, chunks, T, 2, 8, rounds, device, finish_of(device), again)
            keep(result)
    return result


def long_run(
    images: int = 1000, epochs: int = 100, more: Sequence[str] = (), only: Sequence[str] | None = None, keep: Keep = forget
) -> dict[str, Any]:
    """Seconds by phase of whole runs of ViT-B/16 on images in the cache, by speed, and of a run of the embedded suite.

    only: speeds.
    """
    rows: dict[str, Any] = {}
    result = {"what": f"a whole run: {images} images of 224 px, {epochs} epochs, as many test images", "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        image_folder(home / "data" / "cifar", images)
        where = [f"paths.{name}={home / name}" for name in ("results", "outputs", "cache", "data")]
        common = ["save_adapter=false", "force=true", *where, *more]
        words = ["method=karst", "dataset=vtab/cifar100", "backbone.weights=none", f"recipe.epochs={epochs}", *common]
        run([*words, "recipe.epochs=1", "seed=1"])  # fills the cache
        speeds = ("compile", "graph", "eager") if torch.cuda.is_available() else ("eager", "compile")
        embedded = ["method=karst", "dataset=mini/digits", "recipe.epochs=15", *common]
        asked = {speed: [*words, f"speed={speed}"] for speed in speeds if only is None or speed in only}
        for name, overrides in (asked | {"embedded suite, 15 epochs": embedded}).items():
            for again in ("", ", again"):  # the second finds the compiler's cache, and must give the same digits
                rows[f"{name}{again}"] = run_in_mode(overrides)
                keep(result)
    return result


def batch_of(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same random images and labels every time."""
    size: Any = case.net().patch_embed.img_size  # type: ignore[union-attr]
    torch.manual_seed(1)
    return torch.randn(case.batch, 3, *size).to(device), torch.randint(CLASSES, (case.batch,)).to(device)


def about(what: str, case: Case, rounds: int) -> dict[str, Any]:
    return {"what": what, "model": case.model, "depth": case.depth, "batch": case.batch, "rounds": rounds, "precision": "bf16",
            "clock": "wall"}  # fmt: skip
