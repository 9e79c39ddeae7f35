"""Which parameters train: by the module and the name under which they stand, not by the object that stands there now."""

import fnmatch
from collections.abc import Collection, Iterable

from torch import nn

from karst_bench.errors import UserError

Place = tuple[nn.Module, str]  # a module and the name of a parameter that is its own


class TrainedParameters:
    """The parameters that methods gave or unfroze, and the backbone's own by the names they had before anything was wrapped."""

    def __init__(self, net: nn.Module, heads: Collection[str]) -> None:
        inside = tuple(f"{path}." for path in heads)
        self.own: dict[str, Place] = {
            f"{path}.{name}" if path else name: (module, name) for path, module in net.named_modules()
            for name, _ in module.named_parameters(recurse=False) if not f"{path}.".startswith(inside)
        }  # fmt: skip
        self._groups: list[list[Place]] = []  # a parameter each: every module that has it

    def add(self, module: nn.Module) -> None:
        """Trains all of a module's parameters; one that is there already is one parameter still."""
        groups = {id(getattr(*places[0])): places for places in self._groups}
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                parameter.requires_grad_(True)
                if id(parameter) not in groups:
                    groups[id(parameter)] = []
                    self._groups.append(groups[id(parameter)])
                if not any(owner is known and name == key for known, key in groups[id(parameter)]):
                    groups[id(parameter)].append((owner, name))

    def unfreeze(self, pattern: str) -> None:
        """Trains the backbone's parameters whose names fit the fnmatch pattern. Raises: UserError where none does."""
        names = fnmatch.filter(self.own, pattern)
        if not names:
            raise UserError(
                f"unfreeze({pattern!r}) matches no parameter of the backbone; its names look like {next(iter(self.own))!r}"
            )
        for name in names:
            getattr(*self.own[name]).requires_grad_(True)
            self._groups.append([self.own[name]])

    def moved(self, places: Iterable[tuple[Place, Place]]) -> None:
        """Notes where parameters stand now that were put into another module."""
        to = dict(places)
        if to:
            self._groups = [[to.get(place, place) for place in group] for group in self._groups]
            self.own = {name: to.get(place, place) for name, place in self.own.items()}

    def places(self) -> set[Place]:
        """Where they stand. Raises: UserError where a parameter that several modules share was put apart."""
        for group in self._groups:
            if len({id(getattr(*place)) for place in group}) > 1:
                raise UserError(
                    f"{type(group[0][0]).__name__}.{group[0][1]} was shared by {len(group)} modules, and a conversion of the model "
                    "made separate parameters of it; convert the model before attaching"
                )
        return {place for group in self._groups for place in group}


def named(net: nn.Module, places: Collection[Place]) -> dict[str, nn.Parameter]:
    """The parameters that stand at these places, each once, by name in the model's order."""
    found, seen = {}, set[int]()
    for path, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if (module, name) in places and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{path}.{name}" if path else name] = parameter
    return found
