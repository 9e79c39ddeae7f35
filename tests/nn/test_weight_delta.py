"""A weight change as one matrix, as its factors, and by its equation, with scales that are not 1."""

import pytest
import torch

from karst_bench.nn.kronecker import KroneckerSum
from karst_bench.nn.lowrank import LowRankProduct


def filled(update):
    generator = torch.Generator().manual_seed(1)
    for p in update.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return update


def test_low_rank_is_s_b_a():
    update = filled(LowRankProduct(6, 4, r=2, s=0.5))
    expected = 0.5 * torch.einsum("or,ri->oi", update.B, update.A)
    torch.testing.assert_close(update.delta(torch.empty(6, 4)), expected)
    torch.testing.assert_close(update.factors(torch.empty(6, 4)).materialise(), expected)


def test_kronecker_sum_entry_by_entry():
    """dW[c k + (p a + i), q b + j] = sigma sum_n C_n[p, q] (A_nc B_n)[i, j], chunk by chunk of the output."""
    update = filled(KroneckerSum(12, 6, N=2, m=2, r=3, sigma=0.25, init="gaussian", chunks=3))
    expected = torch.zeros(12, 6, dtype=torch.float64)
    for c in range(3):
        inner = [update.A[n, c] @ update.B[n] for n in range(2)]  # (2, 3) each
        for row in range(4):
            for column in range(6):
                expected[4 * c + row, column] = 0.25 * sum(
                    update.C[n, row // 2, column // 3] * inner[n][row % 2, column % 3] for n in range(2)
                )
    torch.testing.assert_close(update.delta(torch.empty(12, 6)), expected)
    torch.testing.assert_close(update.factors(torch.empty(12, 6)).materialise(), expected)


def test_every_chunk_must_be_divided():
    with pytest.raises(ValueError, match="m=4 must divide d_in=8 and d_out=2"):
        KroneckerSum(8, 8, N=1, m=4, r=1, sigma=1.0, init="gaussian", chunks=4)
