"""A step that can be repeated to the last digit is; one that cannot runs once, says so, and draws what it would have drawn."""

import logging

import pytest
import torch

from karst_bench.engine.repeatable import RepeatableStep, deterministic_algorithms

CPU = torch.device("cpu")
NONE = "histc_cuda does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'."


def refuses(x):
    drawn = torch.rand(3)
    if torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(NONE)
    return drawn + x


def test_what_has_no_deterministic_kernel_runs_without_and_says_so_once(caplog):
    step = RepeatableStep(refuses, CPU)
    torch.manual_seed(3)
    with caplog.at_level(logging.WARNING):
        seen = [step(1), step(1)]
    torch.manual_seed(3)
    assert torch.equal(torch.stack(seen), torch.stack([torch.rand(3) + 1, torch.rand(3) + 1]))
    assert caplog.messages == [
        "this run will not repeat itself to the last digit: histc_cuda does not have a deterministic implementation"
    ]
    assert not step.repeatable


def test_steps_are_deterministic_and_nothing_around_them_is_changed():
    seen = []
    step = RepeatableStep(lambda: seen.append(torch.are_deterministic_algorithms_enabled()), CPU)
    fills = torch.utils.deterministic.fill_uninitialized_memory
    step()
    assert seen == [True] and step.repeatable
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == fills


def test_other_errors_pass():
    def fails():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        RepeatableStep(fails, CPU)()
    with pytest.raises(ZeroDivisionError), deterministic_algorithms():
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
def test_attention_in_bf16_gives_the_same_gradient_each_time():
    q, k, v = (torch.randn(8, 12, 197, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def gradients():
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.cat([g.flatten() for g in torch.autograd.grad(y.float().square().sum(), (q, k, v))])

    step = RepeatableStep(gradients, torch.device("cuda"))
    first = step()
    assert step.repeatable and all(torch.equal(step(), first) for _ in range(10))
