"""Two processes train as one, under DistributedDataParallel and under FSDP2's fully_shard: the mean of their gradients is the
whole batch's."""

from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import multiprocessing, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import karst_bench
from karst_bench import UserError

WORLD = 2
METHODS = {"lora": {"dropout": 0.0}, "karst": {"m": 4}, "ssf": {}, "bitfit": {}}  # dropout is drawn in each process anew
SHARDED = METHODS | {"adaptformer": {}, "vpt_deep": {}, "dtl_plus": {}, "lst": {"r": 2}, "fact_tt": {}, "repadapter": {}}
WHOLE = ("fact_tt",)  # its factors are in every block, and fully_shard leaves a parameter to one


def unadapted() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2,
                             num_classes=5)  # fmt: skip


def model(method: str) -> nn.Module:
    net = karst_bench.attach(unadapted(), method, **SHARDED[method])
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return net.train()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(3)), torch.arange(8) % 5


def gradients(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    cross_entropy(net(x), y).backward()
    plain = net.module if isinstance(net, DistributedDataParallel) else net
    return {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}


def work(rank: int, folder: Path) -> None:
    """Gradients of DDP in `folder`, by method."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    x, y = batch()
    for method in METHODS:
        found = gradients(DistributedDataParallel(model(method)), x[rank::WORLD], y[rank::WORLD])
        if rank == 0:
            save_file(found, folder / f"{method}.safetensors")
    dist.destroy_process_group()


def sharded_work(rank: int, folder: Path) -> None:
    """Gradients of FSDP2 and adapters in `folder`, by method and by what is sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    mesh, (x, y) = init_device_mesh("cpu", (WORLD,)), batch()
    for method in SHARDED:
        for how in ("root", "blocks") if method not in WHOLE else ("root",):
            net = model(method).eval()
            for block in net.blocks if how == "blocks" else ():
                fully_shard(block, mesh=mesh)
            fully_shard(net, mesh=mesh)
            found = {name: grad.full_tensor() for name, grad in gradients(net, x[rank::WORLD], y[rank::WORLD]).items()}
            path = karst_bench.save_adapter(net, folder / f"{method}-{how}-{rank}.adapter.safetensors")
            with pytest.raises(UserError, match="before fully_shard"):
                karst_bench.load_adapter(net, path)
            with pytest.raises(UserError, match="cannot be merged"):
                karst_bench.merge(net)
            if rank == 0:
                save_file(found, folder / f"{method}-{how}.safetensors")
    dist.destroy_process_group()


def agree(both: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> None:
    assert both.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(both[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path):
    multiprocessing.spawn(work, (tmp_path,), nprocs=WORLD)
    for method in METHODS:
        agree(load_file(tmp_path / f"{method}.safetensors"), gradients(model(method), *batch()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_sharded_model_trains_and_saves_as_a_whole_one(tmp_path: Path):
    """Sharded as one, and block by block; the adapter of either process is that of one."""
    multiprocessing.spawn(sharded_work, (tmp_path,), nprocs=WORLD)
    for method in SHARDED:
        alone, (x, y) = model(method).eval(), batch()
        expected, logits = gradients(alone, x, y), alone(x)
        for how in ("root", "blocks") if method not in WHOLE else ("root",):
            agree(load_file(tmp_path / f"{method}-{how}.safetensors"), expected)
            for rank in range(WORLD):
                path = tmp_path / f"{method}-{how}-{rank}.adapter.safetensors"
                torch.testing.assert_close(karst_bench.load_adapter(unadapted(), path).eval()(x), logits, msg=f"{method} {how}")
