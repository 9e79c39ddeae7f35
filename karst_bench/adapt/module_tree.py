"""Where modules stand in a timm model: found by the paths of the unadapted model, wrapped in place, added at one root."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from karst_bench.adapt.joined_qkv import JoinedQKV, is_apart
from karst_bench.adapt.journal import Journal
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.readout import Readout
from karst_bench.adapt.residual import InputRecorder
from karst_bench.adapt.timm_blocks import BlockLayout, layout_of
from karst_bench.adapt.timm_sites import model_spec, producer_path
from karst_bench.adapt.window_tokens import PooledPrompts
from karst_bench.errors import UserError
from karst_bench.nn.model_spec import ModelSpec

ROOT = "karst"  # the one child that attaching adds to the model: shared modules and block hooks

M = TypeVar("M", bound=nn.Module)
Place = tuple[nn.Module, str]  # a module and the name of a parameter that is its own


class ModuleTree:
    """A timm model whose modules are reached by the paths that they had before anything was wrapped."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.spec: ModelSpec = model_spec(net)
        modules = dict(net.named_modules())
        self._homes = {path: (modules[path.rpartition(".")[0]], path.rpartition(".")[2]) for path in modules if path}
        self._originals: dict[str, nn.Module] = {}
        self._layouts = [layout_of(modules[path], path) for path in self.spec.blocks]
        self._journal = Journal(net)
        self._moved: list[tuple[Place, Place]] = []
        self.layers: dict[str, AdaptedLayer] = {}
        self.root: nn.Module | None = None

    def undo(self) -> None:
        """Takes everything out of the model again; values that training changed stay."""
        self._journal.undo()

    def suspend(self) -> None:
        """Takes everything out of the model until `resume`."""
        self._journal.suspend()

    def resume(self) -> None:
        """Puts back what `suspend` took out."""
        self._journal.resume()

    def place(self, path: str, module: nn.Module) -> None:
        """Puts a module where the model has one of this path now; merge and unmerge swap layers with it."""
        parent, _, name = path.rpartition(".")
        setattr(self.net.get_submodule(parent), name, module)

    def attention_of(self, path: str) -> nn.Module:
        """The attention whose fused projection is at this path; it may have none while it is merged."""
        return self.net.get_submodule(path.rpartition(".")[0])

    def producer(self, path: str) -> nn.Module | None:
        """The module whose output is the input of the layer at this path as it stands; None where another comes between."""
        before = producer_path(path, self.spec.family)
        block = next((i for i, own in enumerate(self.spec.blocks) if path.startswith(f"{own}.")), None)
        if before is None or before not in self._homes or block is None or not self._passes_on(block, path):
            return None
        module: nn.Module = self._home_of(before)
        return module.base if isinstance(module, InputRecorder) else module

    def _passes_on(self, block: int, path: str) -> bool:
        """Whether what PRODUCERS says holds of this block: its norms come first, and none stands before fc2."""
        half = self._layouts[block].halves.get("attn" if ".attn." in path else "mlp")
        if half is None or not half.after_norm:
            return False
        mlp = self.net.get_submodule(path.rpartition(".")[0]) if path.endswith("mlp.fc2") else None
        return mlp is None or (type(mlp).__name__ == "Mlp" and isinstance(mlp.norm, nn.Identity))

    def _put(self, path: str, wrap: Callable[[nn.Module], M]) -> M:
        parent, name = self._homes[path]
        self._originals.setdefault(path, getattr(parent, name))
        wrapper = wrap(getattr(parent, name))
        self._journal.set(parent, name, wrapper)
        return wrapper

    def _layer_at(self, path: str) -> AdaptedLayer:
        """The wrapper of the layer at this path, made where there is none yet."""
        if path not in self.layers:
            home = path.rpartition(".")[0]
            attn = self._originals.get(home) or self._home_of(home) if path.endswith("attn.qkv") else None
            self.layers[path] = self._joined(attn) if attn is not None and is_apart(attn) else self._wrapped(path)
        return self.layers[path]

    def _wrapped(self, path: str) -> AdaptedLayer:
        parent, name = self._homes[path]
        current = getattr(parent, name)
        inner = current if isinstance(current, InputRecorder | Readout | PooledPrompts) else None
        layer = AdaptedLayer(inner.base if inner else current)
        self._originals.setdefault(path, layer.base)
        self._journal.set(inner or parent, "base" if inner else name, layer)
        return layer

    def _joined(self, attn: nn.Module) -> AdaptedLayer:
        joined = JoinedQKV(attn)
        self._moved += [((attn, name), (joined, name)) for name in joined.emptied() if name in joined._parameters]
        for name, value in joined.emptied().items():
            self._journal.set(attn, name, value)
        layer = AdaptedLayer(joined)
        self._journal.set(attn, "qkv", layer)
        return layer

    def _at_root(self, name: str, module: M) -> M:
        if self.root is None:
            self.root = nn.Module()
            self._journal.set(self.net, ROOT, self.root)
        if hasattr(self.root, name):
            raise UserError(f"two methods share a module under the name {name!r}; attach one of them only")
        self.root.add_module(name, module)
        return module

    def _block_path(self, block: int) -> str:
        return self.spec.blocks[block]

    def _layout(self, block: int) -> BlockLayout:
        return self._layouts[block]

    def _home_of(self, path: str) -> Any:
        parent, name = self._homes[path]
        return getattr(parent, name)

    def _block_module(self, block: int) -> Any:
        return self._originals.get(self._block_path(block)) or self._home_of(self._block_path(block))
