"""Evolutionary search over the subnets of a supernet: one engine for all methods; pure Python, no torch.

NOAH [arXiv 2206.04673] and GLoRA [2306.07967] search alike. Here the last generation is ranked too, no subnet is evaluated
twice, and of equally good ones the smaller is the better.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from karst_bench.errors import UserError
from karst_bench.methods.subnets import EvolveStage, Subnet, SubnetSpace

TRIES = 100  # draws for one new subnet within the budget, on average, before places stay empty
Fitness = Callable[[Subnet], float]


class Evaluator(Protocol):
    """`map`, or an executor's: fitness of each subnet, in order."""

    def __call__(self, fitness: Fitness, subnets: Iterable[Subnet], /) -> Iterable[float]: ...


@dataclass(frozen=True)
class Candidate:
    """An evaluated subnet. number: from 0 in order of evaluation; generation 0 is drawn; origin: drawn | mutated | crossed."""

    number: int
    generation: int
    origin: str
    subnet: Subnet
    params: int
    fitness: float

    @property
    def rank(self) -> tuple[float, int, int]:
        """Sorts the best first: the fitter, the smaller, the earlier."""
        return -self.fitness, self.params, self.number


def candidates_in(stage: EvolveStage) -> int:
    """How many subnets a search evaluates, unless the space has fewer."""
    return stage.population * (stage.generations + 1)


def evolve(
    space: SubnetSpace, fitness: Fitness, stage: EvolveStage, *, seed: int, known: Mapping[Subnet, float] | None = None,
    evaluate: Evaluator = map,
) -> Iterator[Candidate]:  # fmt: skip
    """Every candidate as it is evaluated, generation by generation; min(..., key=rank) is what was found.

    The course depends on the seed and the fitnesses alone: a search that was broken off goes on between two candidates
    where `known` holds the fitnesses it had seen. evaluate: `map` evaluates one when it is asked for; an executor's map
    a generation at once. Raises: UserError where no subnet keeps to the budget.
    """
    rng, cache, seen = Random(seed), dict(known or {}), dict[Subnet, Candidate]()
    for generation in range(stage.generations + 1):
        proposed = _proposed(space, stage, rng, _best(seen, stage.parents), taken=seen.keys())
        if not proposed and not seen:
            raise UserError(_too_little(space, stage, rng))
        values = iter(evaluate(fitness, [subnet for subnet in proposed if subnet not in cache]))
        for subnet, origin in proposed.items():
            value = cache[subnet] if subnet in cache else next(values)
            seen[subnet] = Candidate(len(seen), generation, origin, subnet, space.params(subnet), value)
            yield seen[subnet]


def entry_of(candidate: Candidate) -> list[Any]:
    """A candidate as JSON holds it: [generation, origin, params, fitness, subnet]."""
    return [candidate.generation, candidate.origin, candidate.params, candidate.fitness, list(candidate.subnet)]


def known_fitness(log: Iterable[Sequence[Any]]) -> dict[Subnet, float]:
    """What a log of `entry_of` knows: fitness by subnet."""
    return {tuple(subnet): fitness for *_, fitness, subnet in log}


def _proposed(
    space: SubnetSpace, stage: EvolveStage, rng: Random, parents: Sequence[Subnet], *, taken: Iterable[Subnet]
) -> dict[Subnet, str]:
    """New subnets within the budget and where each comes from; fewer than the population where the space runs out."""
    found, taken = dict[Subnet, str](), set(taken)

    def fill(origin: str, upto: int, make: Callable[[], Subnet]) -> None:
        for _ in range(TRIES * upto):
            if len(found) >= upto:
                return
            subnet = make()
            if subnet not in taken and subnet not in found and _allowed(space, stage, subnet):
                found[subnet] = origin

    if parents:
        fill("mutated", stage.mutants, lambda: space.mutate(_one(parents, rng), rng))
        fill("crossed", len(found) + stage.crossed, lambda: space.cross(_one(parents, rng), _one(parents, rng), rng))
    fill("drawn", stage.population, lambda: space.draw(rng))
    return found


def _allowed(space: SubnetSpace, stage: EvolveStage, subnet: Subnet) -> bool:
    return stage.budget is None or space.params(subnet) <= stage.budget


def _best(seen: Mapping[Subnet, Candidate], count: int) -> list[Subnet]:
    return [candidate.subnet for candidate in sorted(seen.values(), key=lambda candidate: candidate.rank)[:count]]


def _one(parents: Sequence[Subnet], rng: Random) -> Subnet:
    return parents[int(rng.random() * len(parents))]


def _too_little(space: SubnetSpace, stage: EvolveStage, rng: Random) -> str:
    least = min(space.params(space.draw(rng)) for _ in range(TRIES))
    return (f"method.stages.evolve.budget={stage.budget}: of {TRIES} subnets the smallest has {least} scalars; give a budget "
            "well above it, or null")  # fmt: skip
