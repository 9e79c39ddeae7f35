"""Where modules stand in a timm model: found by the paths of the unadapted model, wrapped in place, added at one root."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from karst_bench.adapt.layers import InputRecorder
from karst_bench.adapt.timm_sites import model_spec, producer_path
from karst_bench.errors import UserError
from karst_bench.nn.model_spec import ModelSpec

ROOT = "karst"  # the one child that attaching adds to the model: shared modules and block hooks

M = TypeVar("M", bound=nn.Module)


class ModuleTree:
    """A timm model whose modules are reached by the paths that they had before anything was wrapped."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.spec: ModelSpec = model_spec(net)
        modules = dict(net.named_modules())
        self._homes = {path: (modules[path.rpartition(".")[0]], path.rpartition(".")[2]) for path in modules if path}
        self._originals: dict[str, nn.Module] = {}
        self.root: nn.Module | None = None

    def place(self, path: str, module: nn.Module) -> None:
        """Puts a module where the model has one of this path now; merge and unmerge swap layers with it."""
        parent, _, name = path.rpartition(".")
        setattr(self.net.get_submodule(parent), name, module)

    def producer(self, path: str) -> nn.Module | None:
        """The module whose output is the input of the layer at this path as it stands; None where another comes between."""
        before = producer_path(path, self.spec.family)
        if before is None or before not in self._homes:
            return None
        module = self._home_of(before)
        return module.base if isinstance(module, InputRecorder) else module

    def _put(self, path: str, wrap: Callable[[nn.Module], M]) -> M:
        parent, name = self._homes[path]
        self._originals.setdefault(path, getattr(parent, name))
        wrapper = wrap(getattr(parent, name))
        setattr(parent, name, wrapper)
        return wrapper

    def _at_root(self, name: str, module: M) -> M:
        if self.root is None:
            self.root = nn.Module()
            self.net.add_module(ROOT, self.root)
        if hasattr(self.root, name):
            raise UserError(f"two methods share a module under the name {name!r}; attach one of them only")
        self.root.add_module(name, module)
        return module

    def _block_path(self, block: int) -> str:
        path = next(site.path for site in self.spec.sites if site.block == block)
        return path.split(".attn.")[0].removesuffix(".norm1")

    def _home_of(self, path: str) -> Any:
        parent, name = self._homes[path]
        return getattr(parent, name)

    def _block_module(self, block: int) -> Any:
        return self._originals.get(self._block_path(block)) or self._home_of(self._block_path(block))
