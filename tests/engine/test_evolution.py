"""The evolution engine on spaces whose best subnet is known, without a model."""

import ast
import statistics
from itertools import count, pairwise
from pathlib import Path
from random import Random

import pytest

import karst_bench.engine.evolution as engine
from karst_bench.engine.evolution import candidates_in, entry_of, evolve, known_fitness
from karst_bench.errors import UserError
from karst_bench.methods import subnets
from karst_bench.methods.subnets import ChoiceSpace, EvolveStage, LayeredSpace, SearchStages

STAGE = EvolveStage(split="val", population=20, parents=5, mutants=10, crossed=5, generations=20, budget=None)
PLACES, WORDS = 6, 4
CHOICES = ChoiceSpace([[5, 3, 1, 0]] * PLACES, p=0.2, groups=["all"], names=[(f"p{n}", "abcd") for n in range(PLACES)])
LAYERS = LayeredSpace({"vpt": {1: 4, 5: 20}, "lora": {1: 7, 5: 35, 9: 63}}, layers=8, depths=[2, 4, 8], p=0.3, p_depth=0.4)


def planted(seed):
    """The share of places that agree with a subnet nobody knows."""
    hidden = CHOICES.draw(Random(f"hidden {seed}"))
    return lambda subnet: sum(a == b for a, b in zip(subnet, hidden, strict=True)) / PLACES


def test_a_planted_optimum_is_found_faster_than_by_random_search(record_property):
    """30 seeds; 4^6 = 4,096 subnets, of which one is the best: evaluations until it is seen."""
    evolved, drawn = [], []
    for seed in range(30):
        fitness, rng = planted(seed), Random(f"random {seed}")
        evolved.append(next(c.number + 1 for c in evolve(CHOICES, fitness, STAGE, seed=seed) if c.fitness == 1))
        drawn.append(next(n for n in count(1) if fitness(CHOICES.draw(rng)) == 1))
    record_property("evolution", sorted(evolved))
    record_property("random", sorted(drawn))
    print(f"evaluations, median and most: evolution {statistics.median(evolved)}, {max(evolved)}; "
          f"random {statistics.median(drawn)}, {max(drawn)}")  # fmt: skip
    assert max(evolved) <= candidates_in(STAGE) and 10 * statistics.median(evolved) < statistics.median(drawn)


@pytest.mark.parametrize("space", [CHOICES, LAYERS], ids=["choices", "layers"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_budget_is_never_exceeded(space, share):
    budget = int(share * space.mean_params())
    stage = EvolveStage(split="val", population=20, parents=5, mutants=8, crossed=8, generations=6, budget=budget)
    seen = list(evolve(space, lambda subnet: float(sum(subnet)), stage, seed=1))
    assert all(c.params == space.params(c.subnet) <= budget for c in seen)
    assert len({c.subnet for c in seen}) == len(seen) == candidates_in(stage)
    with pytest.raises(UserError, match="budget=-1"):
        list(evolve(space, len, EvolveStage(**{f: getattr(stage, f) for f in stage.__struct_fields__ if f != "budget"}, budget=-1),
                    seed=1))  # fmt: skip


def test_parents_are_the_best_of_all_generations_and_the_last_one_counts():
    """The best so far never gets worse, and a candidate of the last generation can be what is found."""
    seen = list(evolve(CHOICES, planted(5), STAGE, seed=2))
    best = [min((c for c in seen if c.generation <= g), key=lambda c: c.rank) for g in range(STAGE.generations + 1)]
    assert all(a.fitness <= b.fitness for a, b in pairwise(best))
    origins = {c.origin for c in seen if c.generation}
    assert {c.origin for c in seen if not c.generation} == {"drawn"} and origins == {"mutated", "crossed", "drawn"}
    assert {c.generation for c in seen} == set(range(21))
    rising = iter(range(10_000))
    late = list(evolve(CHOICES, lambda _: float(next(rising)), STAGE, seed=2))
    assert min(late, key=lambda c: c.rank) is late[-1]


def test_both_parents_of_a_cross_are_drawn(monkeypatch):
    """Each is one of the best few, not always the very best."""
    pairs, cross = [], ChoiceSpace.cross

    def noting(self, one, other, rng):
        pairs.append((one, other))
        return cross(self, one, other, rng)

    monkeypatch.setattr(ChoiceSpace, "cross", noting)
    list(evolve(CHOICES, planted(5), EvolveStage("val", 20, 5, 5, 10, 1, None), seed=2))
    assert all(len(set(side)) > 2 for side in zip(*pairs, strict=True)) and any(one != other for one, other in pairs)


def test_of_equal_fitness_the_smaller_is_better():
    seen = list(evolve(CHOICES, lambda _: 0.0, STAGE, seed=3))
    best = min(seen, key=lambda c: c.rank)
    assert best.params == min(c.params for c in seen)


def test_broken_off_anywhere_it_goes_on_alike_and_evaluates_nothing_twice():
    fitness, calls = planted(7), []

    def counted(subnet):
        calls.append(subnet)
        return fitness(subnet)

    whole = list(evolve(CHOICES, counted, STAGE, seed=4))
    assert len(calls) == len(set(calls)) == len(whole)
    for stop in (1, 20, 33, len(whole) - 1):
        search = evolve(CHOICES, fitness, STAGE, seed=4)
        log = [entry_of(next(search)) for _ in range(stop)]
        calls.clear()
        assert list(evolve(CHOICES, counted, STAGE, seed=4, known=known_fitness(log))) == whole
        assert len(calls) == len(whole) - stop
    assert list(evolve(CHOICES, fitness, STAGE, seed=5)) != whole


def test_a_generation_at_once_finds_the_same():
    def at_once(fitness, subnets):
        return [fitness(subnet) for subnet in reversed(list(subnets))][::-1]

    assert list(evolve(LAYERS, sum, STAGE, seed=6, evaluate=at_once)) == list(evolve(LAYERS, sum, STAGE, seed=6))


def test_a_space_smaller_than_the_search_is_exhausted():
    space = ChoiceSpace([[1, 0]] * 3, p=0.5, groups=["all"], names=[(str(n), "ab") for n in range(3)])
    seen = list(evolve(space, sum, STAGE, seed=0))
    assert len(seen) == 8 == len({c.subnet for c in seen})


def legal(space, subnet):
    """By the space's own words, not by its code."""
    if space is CHOICES:
        return len(subnet) == PLACES and all(choice in range(WORDS) for choice in subnet)
    halves = subnet[:8], subnet[8:]
    prefixes = all(all(size for size in half[: half.count(0) * -1 or None]) for half in halves)
    return (len(subnet) == 16 and prefixes and all(8 - half.count(0) in (2, 4, 8) for half in halves)
            and set(halves[0]) <= {0, 1, 5} and set(halves[1]) <= {0, 1, 5, 9})  # fmt: skip


@pytest.mark.parametrize("space", [CHOICES, LAYERS], ids=["choices", "layers"])
@pytest.mark.parametrize("number", [2000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_drawn_mutated_and_crossed_subnets_are_legal(space, number):
    rng = Random(11)
    other = space.draw(rng)
    for _ in range(number):
        one = space.draw(rng)
        assert legal(space, one) and legal(space, space.mutate(one, rng)) and legal(space, space.cross(one, other, rng))
        other = one


def test_every_size_and_depth_mutates():
    """In NOAH's published code only the depth does, so that with one depth a mutant is its parent."""
    fixed = LayeredSpace({"vpt": {1: 4, 5: 20}}, layers=4, depths=[4], p=0.3, p_depth=0.4)
    rng = Random(2)
    assert len({fixed.mutate((1, 5, 5, 1), rng) for _ in range(2000)}) == 16
    assert {8 - LAYERS.mutate((5,) * 16, rng)[:8].count(0) for _ in range(100)} == {2, 4, 8}


@pytest.mark.parametrize("space", [CHOICES, LAYERS], ids=["choices", "layers"])
def test_the_expectation_is_that_of_uniform_draws(space):
    rng = Random(3)
    sizes = [space.params(space.draw(rng)) for _ in range(4000)]
    assert abs(statistics.mean(sizes) - space.mean_params()) < 3 * statistics.stdev(sizes) / 4000**0.5


def test_a_cross_takes_whole_kinds_of_layers():
    one, other = (1,) * 16, (5,) * 16
    assert {LAYERS.cross(one, other, Random(seed)) for seed in range(40)} == {
        one, other, (1,) * 8 + (5,) * 8, (5,) * 8 + (1,) * 8
    }  # fmt: skip


STAGES = {
    "supernet": {"split": "fit", "epochs": 2, "lr": 1e-3},
    "evolve": {"split": "val", "population": 4, "parents": 2, "mutants": 2, "crossed": 1, "generations": 1, "budget": None},
    "train": {"epochs": None, "lr": None},
}


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("supernet", {"split": "all"}, "supernet.split=all"),
        ("evolve", {"split": "test"}, "evolve.split=test"),
        ("evolve", {"mutants": 9}, "more than the population"),
        ("evolve", {"generations": "many"}, "generations"),
        ("supernet", {"momentum": 1}, "momentum"),
    ],
)
def test_stages_that_cannot_be_are_refused(stage, changes, said):
    assert SearchStages.of(STAGES, retrains=True).evolve.population == 4
    with pytest.raises(UserError, match=said):
        SearchStages.of(STAGES | {stage: STAGES[stage] | changes}, retrains=True)


def test_who_trains_again_must_say_so():
    with pytest.raises(UserError, match="keep their weights"):
        SearchStages.of(STAGES, retrains=False)
    with pytest.raises(UserError, match="trained again"):
        SearchStages.of(STAGES | {"train": None}, retrains=True)


@pytest.mark.parametrize("module", [engine, subnets])
def test_it_is_pure_python(module):
    names = {name.split(".")[0] for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
             for name in ([a.name for a in node.names] if isinstance(node, ast.Import)
                          else [node.module] if isinstance(node, ast.ImportFrom) else [])}  # fmt: skip
    assert not names & {"torch", "timm", "numpy", "hydra"}
