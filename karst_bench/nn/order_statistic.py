"""One entry of a sorted tensor without sorting it."""

import torch
from torch import Tensor

DIGITS = ((20, 11), (9, 11), (0, 9))  # (shift, width): the 31 bits of a non-negative float, the highest first


def nth_smallest(values: Tensor, n: Tensor) -> Tensor:
    """The n-th smallest (one whole number, from 1) of the values, which are non-negative float32, 0 for n = 0; shape (1,).

    The very number that sorting would find. On a GPU nothing is read by the host and no operation's size depends on n.
    """
    flat, n = values.flatten(), n.reshape(1)
    if values.device.type == "cuda":
        return by_digits(flat, n)
    if type(values) is Tensor and values.device.type == "cpu" and not torch.compiler.is_compiling():
        return flat.kthvalue(int(n)).values.view(1) if int(n) else flat.new_zeros(1)
    found = flat.sort().values.index_select(0, (n - 1).clamp_min(0))
    return torch.where(n > 0, found, 0.0)


def by_digits(flat: Tensor, n: Tensor) -> Tensor:
    """`nth_smallest` by its bits, which sort as the numbers do: the entries that begin like it are counted by their next digit.

    Less the digits found so far, all others lie outside of what is counted, but for a last bin that is not looked at.
    """
    bits, found = flat.view(torch.int32), None
    for shift, width in DIGITS:
        digits = bits >> shift if shift else bits
        if found is not None:
            digits = torch.sub(digits, found, alpha=1 << width)
        counts = digit_counts(digits, (1 << width) + 1)
        up_to = counts.cumsum(0, dtype=torch.int64)
        digit = torch.searchsorted(up_to, n, out_int32=True)
        if shift:
            n = n - (up_to - counts).index_select(0, digit)
        found = digit if found is None else torch.add(digit, found, alpha=1 << width)
    assert found is not None
    return found.view(torch.float32)


@torch.library.custom_op("karst_bench::digit_counts", mutates_args=())
def digit_counts(digits: Tensor, bins: int) -> Tensor:
    """How many of the digits are 0, 1 .. bins - 1; the last bin counts those that are `bins` too. Shape (bins,).

    Whole numbers add up to the same in any order. torch has no deterministic form of it for a GPU all the same, and a run would
    give up its own: an operation of its own, to a compiler too, that asks for none.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        return torch.histc(digits if digits.device.type == "cuda" else digits.float(), bins, 0, bins)  # no integers on a CPU
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@digit_counts.register_fake
def _(digits: Tensor, bins: int) -> Tensor:
    return digits.new_empty(bins, dtype=None if digits.device.type == "cuda" else torch.float32)
