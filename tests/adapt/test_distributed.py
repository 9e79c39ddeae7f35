"""Two processes under DistributedDataParallel train as one: the mean of their gradients is the whole batch's."""

import socket
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

WORLD = 2
METHODS = {"lora": {"dropout": 0.0}, "karst": {"m": 4}, "ssf": {}, "bitfit": {}}  # dropout is drawn in each process anew


def model(method: str) -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2,
                            num_classes=5)  # fmt: skip
    karst_bench.attach(net, method, **METHODS[method])
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


def work(rank: int, port: int, method: str, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    x, y = batch()
    found = gradients(DistributedDataParallel(model(method)), x[rank::WORLD], y[rank::WORLD])
    if rank == 0:
        save_file(found, result)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_gradients_of_one(method: str, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, method, str(tmp_path / "gradients.safetensors")), nprocs=WORLD)
    both, alone = load_file(tmp_path / "gradients.safetensors"), gradients(model(method), *batch())
    assert both.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(both[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
