"""What belongs to one forward pass and must not travel with the module that holds it."""

from typing import Any, Self


class Transient(dict[Any, Any]):
    """A dictionary that is empty in every copy and every file: activations have graphs, which neither can hold."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
