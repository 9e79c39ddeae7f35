"""Tiny timm models of both families, and methods attached to them.

Torch and timm are imported where they are needed: xdist's controller reads this file too, and runs no test.
"""

from __future__ import annotations

import copy
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 5
ONE_BLOCK = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}


MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # a disk of memory, where there is one; bytes that must be free there
_made: list[Path] = []


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Imports make no garbage, but millions of objects: walking them again and again is a sixth of importing timm.

    The tests write through to the disk some 3,000 times, as runs do: in memory nobody waits for it. --basetemp=DIR keeps what
    they wrote, elsewhere; several workers share the one folder.
    """
    gc.disable()
    for left in MEMORY.glob("karst_bench_tests_*"):  # by a process that was killed
        if left.stat().st_mtime < time.time() - 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)
    if config.option.basetemp is None and _may_be_used(MEMORY):
        _made.append(Path(tempfile.mkdtemp(prefix="karst_bench_tests_", dir=MEMORY)))
        config.option.basetemp = str(_made[0])


def _may_be_used(folder: Path) -> bool:
    """Whether there is room, and a script that a test writes may run there: some tests are programs."""
    return (os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > ROOM
            and not os.statvfs(folder).f_flag & os.ST_NOEXEC)  # fmt: skip


def pytest_collection_finish() -> None:
    """What the libraries hold lives as long as the process; of the tests' own, the youngest alone are walked often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


def pytest_unconfigure() -> None:
    """triton names on stderr whatever is not collected at the end."""
    gc.unfreeze()
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache
def _tiny(family: str, *, shallow: bool = False) -> nn.Module:
    """Two-digit widths, every shape of the big ones: four stages, shifted windows, a class token; shallow: half the blocks."""
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "vit":
            net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48,
                                    depth=2 if shallow else 4, num_heads=3, num_classes=CLASSES)  # fmt: skip
        else:
            depths, heads = ((2, 1), (1, 2)) if shallow else ((2, 1, 1, 1), (1, 2, 4, 8))
            net = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=16,
                                    depths=depths, num_heads=heads, num_classes=CLASSES)  # fmt: skip
        with torch.no_grad():
            for p in net.parameters():  # biases and norms start at 0 and 1 only: folds must hold elsewhere too
                p.add_(0.05 * torch.randn_like(p))
    return net.eval()


@lru_cache
def _settings(overrides: tuple[str, ...]) -> dict[str, Any]:
    from karst_bench.config.compose import settings_of

    return settings_of(overrides).as_config()


@dataclass
class Attached:
    """A tiny model with the methods of a command line."""

    net: nn.Module
    methods: list[Any]
    model: Any
    method_settings: dict[str, Any]
    shallow: bool = False


@pytest.fixture(scope="session")
def tiny() -> Callable[..., nn.Module]:
    """tiny(family): an unmodified timm model, the same weights every time."""
    return lambda family, shallow=False: copy.deepcopy(_tiny(family, shallow=shallow))


@pytest.fixture(scope="session")
def settings() -> Callable[..., dict[str, Any]]:
    """settings(*overrides): the resolved configuration, composed once."""
    return lambda *overrides: copy.deepcopy(_settings(overrides))


@pytest.fixture(scope="session")
def mini_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for paths.cache, in which an embedded task is drawn once a process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def one_block(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The overrides of a backbone like vit_mini with one block: a run takes a tenth of a second."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ONE_BLOCK)
    path = tmp_path_factory.mktemp("weights") / "one_block.safetensors"
    save_file(net.state_dict(), path)
    arguments = ",".join(f"{name}:{value}" for name, value in ONE_BLOCK.items())
    return [f"backbone.model_args={{{arguments}}}", f"backbone.weights={path}"]


@pytest.fixture(scope="session")
def attached() -> Callable[..., Attached]:
    """attached(family, *overrides, seed=0): a tiny model with the methods that the overrides name, scored where they are."""

    def build(family: str, *overrides: str, seed: int = 0, shallow: bool = False) -> Attached:
        import torch

        from karst_bench.adapt.attach import attach_methods
        from karst_bench.adapt.scoring import score_methods
        from karst_bench.adapt.timm_sites import model_spec
        from karst_bench.methods.build import build_methods

        chosen = _settings(overrides)
        method_settings = {node: copy.deepcopy(chosen[node]) for node in ("method", "also", "extra")}
        net, methods = copy.deepcopy(_tiny(family, shallow=shallow)), build_methods(method_settings)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            batch = torch.randn(4, 3, 32, 32), torch.arange(4) % CLASSES
            artefacts = score_methods(copy.deepcopy(net), methods, lambda _: [batch]) if any(m.scored for m in methods) else {}
            spec = model_spec(net)  # of a method that searches, the largest subnet
            artefacts |= {m.name: m.found(m.subnets(spec).largest()) for m in methods if m.search_stages()}
            model = attach_methods(net, methods, artefacts=artefacts, method_settings=method_settings)
        return Attached(net.eval(), methods, model, method_settings, shallow)

    return build


REFUSED = {("vit", "karst_swin_staged"), ("swin", "noah"), ("swin", "sparse_tuning"), ("swin", "vpt_shallow")}


@pytest.fixture(scope="session")
def on_each(attached) -> Callable[[str, str], Attached]:
    """on_each(family, method): attached, or skipped where it is known not to be defined there, and says so with a remedy."""
    from karst_bench.errors import UserError

    def build(family: str, name: str) -> Attached:
        try:
            case: Attached = attached(family, f"method={name}")
        except UserError as error:
            assert (family, name) in REFUSED and ";" in str(error), f"{name} on {family}: {error}"
            pytest.skip(str(error))
        assert (family, name) not in REFUSED, "it is attached after all"
        return case

    return build


@pytest.fixture(scope="session")
def images() -> Tensor:
    """(4, 3, 32, 32), the same every time."""
    import torch

    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def fake_cuda() -> None:
    """Skips where this torch makes no tensors of a CUDA device without the device; asking it loads much of torch."""
    from benchmarks.fake_gpu import cuda_without_a_driver

    if not cuda_without_a_driver():
        pytest.skip("this torch asks a CUDA driver, or was built for none")


@pytest.fixture
def shake() -> Callable[[Attached], Attached]:
    """Moves everything that trains off its start, as training would."""
    import torch

    @torch.no_grad()
    def move(case: Attached) -> Attached:
        generator = torch.Generator().manual_seed(5)
        for p in case.model.trained().values():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
        return case

    return move


@pytest.fixture
def train() -> Callable[..., list[float]]:
    """train(case, images, steps): AdamW on one fixed batch with the methods' own groups; the loss of every step."""
    import torch
    from torch import nn

    from karst_bench.engine.optim import build_optimizer, param_groups
    from karst_bench.engine.recipe import Recipe

    recipe = Recipe(
        name="test", optimiser="adamw", lr=2e-3, wd=1e-4, epochs=1, batch=4, warmup=0.0, warmup_lr=0.0, min_lr=0.0,
        cooldown=0.0, drop_path=0.0, per_step=True, momentum=0.0, label_smoothing=0.0, clip_grad=None, augment="none",
        lag=1, cosine_after_warmup=False, warmup_reaches_lr=False, decay_1d="none", drop_last=False,
    )  # fmt: skip

    def loop(case: Attached, images: Tensor, *, steps: int) -> list[float]:
        labels = torch.arange(len(images)) % CLASSES
        named = [(name, p) for name, p in case.net.named_parameters() if p.requires_grad]
        optimizer, losses = build_optimizer(param_groups(named, case.methods, recipe), recipe), []
        case.net.train()
        for step in range(steps):
            for method in case.methods:
                method.before_step(step, steps)
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(case.net(images), labels)
            for method in case.methods:
                loss = loss + method.penalty()
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            for method in case.methods:
                method.after_step(step, steps)
        case.net.eval()
        return losses

    return loop
