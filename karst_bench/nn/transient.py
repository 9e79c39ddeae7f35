"""What belongs to one forward pass and must not travel with the module that holds it."""

from typing import Any, Self


class Transient:
    """Values by name, none in any copy and any file: activations have graphs, which neither can hold.

    It is no dict itself, which torch 2.6 does not follow into a compiled step.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def __setitem__(self, name: str, value: Any) -> None:
        self._kept[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._kept[name]

    def pop(self, name: str, default: Any = None) -> Any:
        """The value, which is let go, or the default."""
        return self._kept.pop(name, default)

    def clear(self) -> None:
        """Lets go of everything."""
        self._kept.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
