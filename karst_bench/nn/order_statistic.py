"""One entry of a sorted tensor without sorting it."""

import torch
from torch import Tensor

DIGITS = ((20, 11), (9, 11), (0, 9))  # (shift, width): the 31 bits of a non-negative float, the highest first


def nth_smallest(values: Tensor, rank: Tensor) -> Tensor:
    """The entry at place `rank` (one whole number, from 0) of the sorted values, which are non-negative float32; shape (1,).

    The very number that sorting would find. On a GPU nothing is read by the host and no operation's size depends on `rank`.
    """
    flat, rank = values.flatten(), rank.reshape(1)
    if values.device.type == "cuda":
        return by_digits(flat, rank)
    if type(values) is Tensor and values.device.type == "cpu" and not torch.compiler.is_compiling():
        return flat.kthvalue(int(rank) + 1).values.view(1)
    return flat.sort().values.index_select(0, rank)


def by_digits(flat: Tensor, rank: Tensor) -> Tensor:
    """`nth_smallest` by its bits, which sort as the numbers do: the entries that begin like it are counted by their next digit."""
    bits = flat.view(torch.int32)
    prefix = torch.zeros_like(rank)
    for shift, width in DIGITS:
        digits = (bits >> shift) & ((1 << width) - 1)
        if shift + width < 31:
            digits = torch.where((bits >> (shift + width)) == prefix, digits, -1)
        counted = digits if digits.device.type == "cuda" else digits.float()  # the CPU's histc knows no integers
        counts = torch.histc(counted, 1 << width, 0, 1 << width).long()
        below = counts.cumsum(0) <= rank
        rank = rank - (counts * below).sum()
        prefix = (prefix << width) | below.sum()
    return prefix.to(torch.int32).view(torch.float32)
