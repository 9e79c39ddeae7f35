"""A module that is used in one place of the tree and stands in another."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Reference(Generic[M]):
    """Points to a module that is registered elsewhere: used here, but listed, counted and saved where it stands.

    Copying the model copies the reference with it, onto the copy.
    """

    module: M
