"""What a method that searches says of its subnets: how they are drawn, varied and counted; pure Python, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import msgspec

from karst_bench.errors import UserError

Subnet = tuple[int, ...]  # a choice for every place; what the numbers mean is the space's own


class SubnetSpace(Protocol):
    """All subnets of one supernet. Whatever `draw`, `mutate` and `cross` give is legal, if what they are given is."""

    def largest(self) -> Subnet:
        """The whole supernet as one of them."""
        ...

    def draw(self, rng: Random) -> Subnet:
        """Any subnet, each place uniformly."""
        ...

    def mutate(self, subnet: Subnet, rng: Random) -> Subnet:
        """A subnet near this one; it may be the same."""
        ...

    def cross(self, one: Subnet, other: Subnet, rng: Random) -> Subnet:
        """A subnet each of whose parts one of the two has."""
        ...

    def params(self, subnet: Subnet) -> int:
        """Scalars that take part in it, which a budget limits."""
        ...

    def shown(self, subnet: Subnet) -> dict[str, Any]:
        """The subnet as a person reads it, in lists and words."""
        ...


class SupernetStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trains all subnets at once, another one in every step; all that is not said here is the recipe's."""

    split: str
    epochs: int
    lr: float


class EvolveStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evolution of `population` subnets drawn, then in each of `generations`: `mutants` and `crossed` of the best `parents`
    seen so far, the rest of the population drawn. budget: most scalars of a subnet, null for any number."""

    split: str
    population: int
    parents: int
    mutants: int
    crossed: int
    generations: int
    budget: int | None


class TrainStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trains the found subnet alone, from the pre-trained weights, under the run's protocol; null: the recipe's."""

    epochs: int | None
    lr: float | None


class SearchStages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method's `stages`: supernet, evolve, and train unless the subnet keeps the supernet's weights."""

    supernet: SupernetStage
    evolve: EvolveStage
    train: TrainStage | None = None

    @classmethod
    def of(cls, values: Mapping[str, object], *, retrains: bool) -> "SearchStages":
        """The stages from their plain values. Raises: UserError for a key, a value or a split that cannot be."""
        try:
            stages = msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise UserError(f"method.stages: {error}; its stages are supernet, evolve and train, as in conf/method") from error
        evolve = stages.evolve
        if (stages.supernet.split, evolve.split) != ("fit", "val"):
            raise UserError(
                f"method.stages: supernet.split={stages.supernet.split}, evolve.split={evolve.split}; a supernet is trained "
                "on fit and its subnets are compared on val, which it has not seen; nothing else is fair"
            )
        if evolve.mutants + evolve.crossed > evolve.population:
            raise UserError(f"method.stages.evolve: {evolve.mutants} mutants and {evolve.crossed} crossed are more than the "
                            f"population of {evolve.population}")  # fmt: skip
        if (stages.train is None) == retrains:
            raise UserError(f"method.stages.train={values.get('train')}; this method's subnets "
                            + ("are trained again: give {epochs: null, lr: null}" if retrains else "keep their weights: null"))
        return stages


@dataclass(frozen=True)
class ChoiceSpace(SubnetSpace):
    """Independent choices: place n takes one of sizes[n] numbers from 0; a mutant redraws each place with probability p.

    cost: scalars of choice c at place n, as cost[n][c], the whole storage first. names: what the choices of a place are
    called, as often repeated as there are groups of places; groups: what those are called.
    """

    cost: Sequence[Sequence[int]]
    p: float
    groups: Sequence[str]
    names: Sequence[tuple[str, Sequence[str]]]

    def largest(self) -> Subnet:
        return (0,) * len(self.cost)

    def draw(self, rng: Random) -> Subnet:
        return tuple(_below(len(costs), rng) for costs in self.cost)

    def mutate(self, subnet: Subnet, rng: Random) -> Subnet:
        return tuple(_below(len(costs), rng) if rng.random() < self.p else choice
                     for choice, costs in zip(subnet, self.cost, strict=True))  # fmt: skip

    def cross(self, one: Subnet, other: Subnet, rng: Random) -> Subnet:
        return tuple(a if rng.random() < 0.5 else b for a, b in zip(one, other, strict=True))

    def params(self, subnet: Subnet) -> int:
        return sum(costs[choice] for choice, costs in zip(subnet, self.cost, strict=True))

    def mean_params(self) -> float:
        """The expectation over uniformly drawn subnets."""
        return sum(sum(costs) / len(costs) for costs in self.cost)

    def shown(self, subnet: Subnet) -> dict[str, Any]:
        width = len(self.names)
        return {group: {name: words[choice] for (name, words), choice in zip(self.names, subnet[at : at + width], strict=True)}
                for group, at in zip(self.groups, range(0, len(subnet), width), strict=True)}  # fmt: skip


@dataclass(frozen=True)
class LayeredSpace(SubnetSpace):
    """A size for each kind of module in each of `layers` layers: the first `depth` layers of a kind have one of `sizes`, the
    others 0, with one of `depths` for each kind.

    A mutant takes another depth of a kind with probability p_depth, and redraws each size with p; a cross takes all
    layers of a kind from one parent. cost: scalars of a size, by kind; the numbers of a subnet are its sizes, kind by kind.
    """

    kinds: Mapping[str, Mapping[int, int]]
    layers: int
    depths: Sequence[int]
    p: float
    p_depth: float

    def largest(self) -> Subnet:
        return tuple(max(costs) if layer < max(self.depths) else 0 for costs in self.kinds.values() for layer in range(self.layers))

    def draw(self, rng: Random) -> Subnet:
        return tuple(size for kind in self.kinds for size in self._drawn(kind, self._depth(rng), (), rng))

    def mutate(self, subnet: Subnet, rng: Random) -> Subnet:
        found: list[int] = []
        for kind, sizes in self._parts(subnet).items():
            depth = self._depth(rng) if rng.random() < self.p_depth else sum(size > 0 for size in sizes)
            kept = [size if rng.random() >= self.p else 0 for size in sizes]
            found += self._drawn(kind, depth, kept, rng)
        return tuple(found)

    def cross(self, one: Subnet, other: Subnet, rng: Random) -> Subnet:
        pairs = zip(self._parts(one).values(), self._parts(other).values(), strict=True)
        return tuple(size for a, b in pairs for size in (a if rng.random() < 0.5 else b))

    def params(self, subnet: Subnet) -> int:
        return sum(self.kinds[kind][size] for kind, sizes in self._parts(subnet).items() for size in sizes if size)

    def shown(self, subnet: Subnet) -> dict[str, Any]:
        return {kind: list(sizes) for kind, sizes in self._parts(subnet).items()}

    def mean_params(self) -> float:
        """The expectation over uniformly drawn subnets."""
        depth = sum(self.depths) / len(self.depths)
        return depth * sum(sum(costs.values()) / len(costs) for costs in self.kinds.values())

    def _parts(self, subnet: Subnet) -> dict[str, Subnet]:
        return {kind: subnet[n * self.layers : (n + 1) * self.layers] for n, kind in enumerate(self.kinds)}

    def _depth(self, rng: Random) -> int:
        return self.depths[_below(len(self.depths), rng)]

    def _drawn(self, kind: str, depth: int, kept: Sequence[int], rng: Random) -> list[int]:
        """`depth` sizes and zeros up to the last layer; a size that is kept and not 0 stays."""
        sizes = list(self.kinds[kind])
        old = [*kept, *[0] * self.layers]
        return [(old[layer] or sizes[_below(len(sizes), rng)]) if layer < depth else 0 for layer in range(self.layers)]


def _below(count: int, rng: Random) -> int:
    """A number from 0 to count - 1; `random()` is the one draw that Python keeps the same from version to version."""
    return int(rng.random() * count)
