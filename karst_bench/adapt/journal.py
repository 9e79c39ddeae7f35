"""What attaching changed in a model, in order, so that it can be taken back."""

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class Absent:
    """In the place of a value where there was none."""


class Journal:
    """Sets attributes of a model's modules and keeps what stood there before; `undo` puts it back, the last one first."""

    def __init__(self, net: nn.Module) -> None:
        self._entries: list[tuple[Any, str, Any]] = []
        self._handles: list[RemovableHandle] = []
        self._flags = [(module, name, p.requires_grad) for module in net.modules()
                       for name, p in module.named_parameters(recurse=False)]  # fmt: skip

    def set(self, owner: Any, name: str, value: Any) -> None:
        """setattr, remembered; a module's children, parameters and plain attributes alike."""
        self._entries.append((owner, name, getattr(owner, name, Absent)))
        setattr(owner, name, value)

    def hook(self, handle: RemovableHandle) -> None:
        """Remembers a hook that was registered."""
        self._handles.append(handle)

    def undo(self) -> None:
        """The modules, attributes and requires_grad of before; values that training changed stay as they are."""
        for handle in self._handles:
            handle.remove()
        for owner, name, value in reversed(self._entries):
            if value is Absent:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        for module, name, wanted in self._flags:
            getattr(module, name).requires_grad_(wanted)
        self._entries, self._handles, self._flags = [], [], []
