"""The arithmetic of one change of a weight, by its factors: onto the weight, onto the output, and back to the factors.

Shapes: x (T, d_in), y and dz (T, d_out) over T tokens; dz is the gradient of the output of W0 + dW. All of it runs
outside autograd. Three forms of a change (nn/weight_delta.py), the same four questions to each; R is the inner size (N r of a
Kron).
"""

import torch
from torch import Tensor

from karst_bench.nn.weight_delta import DenseDelta, FactoredDelta, KronDelta, LowRankDelta

Grads = tuple[Tensor, ...]


def tensors_of(update: FactoredDelta) -> tuple[Tensor, ...]:
    """The tensors of a change in the order of its fields, which is the order of every gradient below.

    Field by field: torch 2.11's compiler reads attributes, and not what vars() of a frozen dataclass gives.
    """
    if isinstance(update, KronDelta):
        return update.C, update.A, update.B
    return (update.up, update.down) if isinstance(update, LowRankDelta) else (update.delta,)


def cast(update: FactoredDelta, dtype: torch.dtype) -> FactoredDelta:
    """The same change in another precision."""
    return type(update)(*(tensor.to(dtype) for tensor in tensors_of(update)))


def height(update: FactoredDelta) -> int:
    """How many output rows the change covers."""
    if isinstance(update, KronDelta):
        return update.C.shape[-1] * update.A.shape[1] * update.A.shape[2]
    return (update.up if isinstance(update, LowRankDelta) else update.delta).shape[0]


def add_to_weight(update: FactoredDelta, weight: Tensor) -> None:
    """weight (d_out, d_in) += dW, in place, as one product of inner size R."""
    if isinstance(update, DenseDelta):
        weight.add_(update.delta)
    elif isinstance(update, LowRankDelta):
        weight.addmm_(update.up, update.down)
    else:
        left, right = _left(update), update.B.flatten(0, 1)
        weight.view(left.shape[0], right.shape[1]).addmm_(left, right)


def add_to_output(update: FactoredDelta, x: Tensor, y: Tensor) -> None:
    """y += x dW^T, in place, without dW. y may be a range of columns of a wider output."""
    if isinstance(update, DenseDelta):
        y.addmm_(x, update.delta.T)
    elif isinstance(update, LowRankDelta):
        y.addmm_(x @ update.down.T, update.up.T)
    else:
        C, A = update.C, update.A
        m, k, i = C.shape[-1], A.shape[1], A.shape[2]
        w = _mixed(C, _inner(x, update.B, m))  # (T m, N r)
        if k == 1 and y.is_contiguous():
            y.view(-1, i).addmm_(w, _flat_a(A).T)
        else:
            y.unflatten(1, (k, m, i)).add_((w @ _flat_a(A).T).view(-1, m, k, i).transpose(1, 2))


def rank_gradients(update: FactoredDelta, x: Tensor, dz: Tensor, dx: Tensor | None) -> Grads:
    """Gradients of the factors by the rank path, no (d_out, d_in) product; adds dz dW to dx in place where wanted."""
    if isinstance(update, DenseDelta):
        if dx is not None:
            dx.addmm_(dz, update.delta)
        return (dz.T @ x,)
    if isinstance(update, LowRankDelta):
        v = dz @ update.up  # (T, R)
        if dx is not None:
            dx.addmm_(v, update.down)
        return dz.T @ (x @ update.down.T), v.T @ x
    return _kron_rank_gradients(update, x, dz, dx)


def dense_gradients(update: FactoredDelta, gradient: Tensor) -> Grads:
    """Gradients of the factors from that of the weight, (d_out, d_in): cheaper than the rank path on narrow layers."""
    if isinstance(update, DenseDelta):
        return (gradient,)
    if isinstance(update, LowRankDelta):
        return gradient @ update.down.T, update.up.T @ gradient
    return _kron_dense_gradients(update, gradient)


def wide_factors(update: FactoredDelta, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(U, V) with dW = U V, each a plain matrix: (rows, R') and (R', d_in).

    Of a Kron U = I_m (x) A and V = C (x) B, R' = m N r: mostly zeros in U, and in return nothing to permute or to group.
    """
    assert not isinstance(update, DenseDelta)
    if isinstance(update, LowRankDelta):
        return update.up.to(dtype), update.down.to(dtype)
    C, A, B = update.C, update.A, update.B
    m, (N, k, i, r) = C.shape[-1], A.shape
    U = A.new_zeros(k, m, i, N, m, r, dtype=dtype)
    U.diagonal(0, 1, 4).copy_(A.permute(1, 2, 0, 3).unsqueeze(-1))
    V = C[:, :, None, :, None] * B[:, None, :, None, :]  # (N, m, r, m, w)
    return U.view(k * m * i, -1), V.view(N * m * r, -1).to(dtype)


def wide_gradients(update: FactoredDelta, dU: Tensor, dV: Tensor) -> Grads:
    """Gradients of the factors from those of U and V: the diagonal blocks of dU, and C's and B's share of dV."""
    if isinstance(update, LowRankDelta):
        return dU, dV
    assert isinstance(update, KronDelta)
    C, A, B = update.C, update.A, update.B
    m, (N, k, i, r) = C.shape[-1], A.shape
    dA = dU.reshape(k, m, i, N, m, r).diagonal(0, 1, 4).sum(-1, dtype=A.dtype).permute(2, 0, 1, 3)
    blocks = dV.reshape(N, m, r, m, -1).transpose(2, 3).reshape(N, m * m, -1).to(B.dtype)
    dC, dB = torch.bmm(blocks, B.reshape(N, -1, 1)), torch.bmm(C.reshape(N, 1, -1), blocks)
    return dC.view_as(C), dA, dB.view_as(B)


def added(update: FactoredDelta, weight: Tensor) -> Tensor:
    """weight (rows, d_in) + dW, the weight left as it is."""
    if isinstance(update, DenseDelta):
        return weight + update.delta
    if isinstance(update, LowRankDelta):
        return torch.addmm(weight, update.up, update.down)
    left, right = update.left(), update.B.flatten(0, 1)
    return torch.addmm(weight.view(left.shape[0], right.shape[1]), left, right).view_as(weight)


def _kron_dense_gradients(update: KronDelta, gradient: Tensor) -> Grads:
    """With P_n = A_n B_n and g_pq the (p, q) blocks of the gradient: dC_pq = <P, g_pq>, dP = sum_pq C_pq g_pq."""
    C, A, B = update.C, update.A.flatten(1, 2), update.B
    N, m, _ = C.shape
    k, i = update.A.shape[1:3]
    blocks = gradient.view(k, m, i, m, -1).permute(1, 3, 0, 2, 4).reshape(m * m, -1)
    dC = torch.bmm(A, B).view(N, -1) @ blocks.T
    dP = (C.reshape(N, m * m) @ blocks).view(N, k * i, -1)
    return dC.view_as(C), torch.bmm(dP, B.transpose(1, 2)).view_as(update.A), torch.bmm(A.transpose(1, 2), dP)


def _kron_rank_gradients(update: KronDelta, x: Tensor, dz: Tensor, dx: Tensor | None) -> Grads:
    C, A, B = update.C, update.A, update.B
    N, m, _ = C.shape
    k, i, r = A.shape[1:]
    # a chunk's rows are (p, i) with p outermost; (T p, k i) puts the sum over p and tokens into one product
    rows = dz.reshape(-1, k, m, i).transpose(1, 2).reshape(-1, k * i)
    u, v = _inner(x, B, m), _by_kernel(rows @ _flat_a(A), N, m, r)
    dA = (rows.T @ _mixed(C, u)).view(k, i, N, r).permute(2, 0, 1, 3)
    dC = torch.bmm(v.flatten(2), u.flatten(2).transpose(1, 2))
    z = _mixed(C.transpose(1, 2), v)  # (T m, N r)
    dB = z.T @ x.reshape(-1, B.shape[-1])
    if dx is not None:
        dx.view(-1, B.shape[-1]).addmm_(z, B.flatten(0, 1))
    return dC, dA, dB.view_as(B)


def _inner(x: Tensor, B: Tensor, m: int) -> Tensor:
    """u_n = B_n x_q, (N, m, T, r): the input's m parts through every B."""
    N, r, width = B.shape
    return _by_kernel(x.reshape(-1, width) @ B.flatten(0, 1).T, N, m, r)


def _by_kernel(flat: Tensor, N: int, m: int, r: int) -> Tensor:
    """(T m, N r) -> (N, m, T, r), so that mixing over m is one product a kernel."""
    return flat.view(-1, m, N, r).permute(2, 1, 0, 3).contiguous()


def _mixed(C: Tensor, u: Tensor) -> Tensor:
    """w_p = sum_q C_pq u_q in every kernel, back as (T m, N r)."""
    N, m, tokens, r = u.shape
    return torch.bmm(C, u.flatten(2)).view(N, m, tokens, r).permute(2, 1, 0, 3).reshape(-1, N * r)


def _flat_a(A: Tensor) -> Tensor:
    """(k i, N r)."""
    return A.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def _left(update: KronDelta) -> Tensor:
    """Kron.left with long inner loops: (d_out m, N r), written as a product of two spread factors."""
    return (_spread_a(update.A, update.C.shape[-1]) * _spread_c(update.C, update.A.shape[-1])).view(
        -1, update.A.shape[0] * update.A.shape[-1]
    )


def _spread_a(A: Tensor, m: int) -> Tensor:
    """A at every q: (k, 1, i, m N r)."""
    N, k, i, r = A.shape
    return A.permute(1, 2, 0, 3).reshape(k, i, 1, N * r).expand(-1, -1, m, -1).reshape(k, 1, i, -1)


def _spread_c(C: Tensor, r: int) -> Tensor:
    """C_pq at every position of the rank: (m, 1, m N r)."""
    N, m, _ = C.shape
    return C.permute(1, 2, 0).reshape(m, m, N, 1).expand(-1, -1, -1, r).reshape(m, 1, -1)
