"""What attaching changed in a model, in order, so that it can be taken back."""

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class Absent:
    """In the place of a value where there was none."""


class Journal:
    """Sets attributes of a model's modules and keeps what stood there before; `undo` puts it back, the last one first."""

    def __init__(self, net: nn.Module) -> None:
        self._entries: list[tuple[Any, str, Any, bool]] = []
        self._handles: list[RemovableHandle] = []
        self._asleep: tuple[list[tuple[Any, str, Any]], list[tuple[nn.Module, str, bool]], list[tuple[Any, int, Any]]] = [], [], []
        self._flags = [(module, name, p.requires_grad) for module in net.modules()
                       for name, p in module.named_parameters(recurse=False)]  # fmt: skip

    def set(self, owner: Any, name: str, value: Any) -> None:
        """setattr, remembered; a module's children, parameters and plain attributes alike."""
        self._entries.append((owner, name, _own(owner, name), name in vars(owner)))
        setattr(owner, name, value)

    def hook(self, handle: RemovableHandle) -> None:
        """Remembers a hook that was registered."""
        self._handles.append(handle)

    def suspend(self) -> None:
        """As `undo`, until `resume`: what stood in the model, its flags and its hooks are kept."""
        flags = [(module, name, p.requires_grad) for module, name, _ in self._flags
                 if isinstance(p := getattr(module, name, None), nn.Parameter)]  # fmt: skip
        hooks = [(handle, handle.hooks_dict_ref()) for handle in self._handles]
        self._asleep = [], flags, [(found, handle.id, found.pop(handle.id)) for handle, found in hooks if found is not None]
        for owner, name, value, plain in reversed(self._entries):
            self._asleep[0].append((owner, name, getattr(owner, name)))
            self._put(owner, name, value, plain=plain)
        for module, name, wanted in self._flags:
            getattr(module, name).requires_grad_(wanted)

    def resume(self) -> None:
        """Puts back what `suspend` took out."""
        entries, flags, hooks = self._asleep
        for owner, name, value in reversed(entries):
            setattr(owner, name, value)
        for module, name, wanted in flags:
            getattr(module, name).requires_grad_(wanted)
        for found, number, hook in hooks:
            found[number] = hook
        self._asleep = [], [], []

    @staticmethod
    def _put(owner: Any, name: str, value: Any, *, plain: bool) -> None:
        if value is Absent or plain:  # an attribute that a child had replaced would come back as a child that is None
            delattr(owner, name)
        if value is not Absent:
            setattr(owner, name, value)

    def undo(self) -> None:
        """The modules, attributes and requires_grad of before; values that training changed stay as they are."""
        for handle in self._handles:
            handle.remove()
        for owner, name, value, plain in reversed(self._entries):
            self._put(owner, name, value, plain=plain)
        for module, name, wanted in self._flags:
            getattr(module, name).requires_grad_(wanted)
        self._entries, self._handles, self._flags = [], [], []


def _own(owner: Any, name: str) -> Any:
    """What the module itself has under this name; what its class has for all modules is left to the class."""
    places = (vars(owner), *(vars(owner).get(kind, {}) for kind in ("_parameters", "_buffers", "_modules")))
    return getattr(owner, name) if any(name in place for place in places) else Absent
