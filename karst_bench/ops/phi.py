"""The steep gate of DTL."""

from torch import Tensor


def steep_swish(h: Tensor, beta: float) -> Tensor:
    """phi(h) = h * sigmoid(beta h): a ReLU that is smooth at 0 for large beta                [DTL, arXiv 2312.07856]"""
    return h * (beta * h).sigmoid()
