"""A run as a list of stages: the plain one is a single fit; searchable and scored methods put others before it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from karst_bench.engine.checkpoint import State, nest, new_state, part
from karst_bench.engine.outcome import Interrupted

KINDS = ("score", "supernet_fit", "evolve", "fit", "evaluate")
Maker = Callable[[], State]
Keeper = Callable[[Maker], None]


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    name: how the record calls it; kind: one of KINDS, names the runner; split: the data it sees; epochs: of a fit, else
    None; recipe: values that differ from the run's recipe; init_from: the product it starts from; produces: the name
    under which its State is kept for later stages.
    """

    name: str
    kind: str
    split: str
    epochs: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    produces: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"stage {self.name}: unknown kind {self.kind!r}; use one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Call:
    """What a runner gets: its stage, the product named by init_from, where to resume, and whom to give states."""

    stage: Stage
    start: State | None
    resume: State | None
    on_checkpoint: Keeper | None


Runner = Callable[[Call], State | None]


def single_stage(split: str, epochs: int) -> list[Stage]:
    """The stages of a method that is simply trained."""
    return [Stage(name="train", kind="fit", split=split, epochs=epochs)]


def run_stages(
    stages: Sequence[Stage], runners: Mapping[str, Runner], *, state: State | None = None,
    on_checkpoint: Keeper | None = None,
) -> dict[str, State]:  # fmt: skip
    """Run the stages in order; returns what they produced, by name.

    state: of an interrupted run; finished stages are skipped, the running one gets its own state to resume from.
    Raises: Interrupted, with the state of the whole list; ValueError before the first stage for a list that cannot run.
    """
    _validate(stages, runners)
    done = state["meta"]["stage"] if state else 0
    kept = part(state, "products") if state else new_state()
    products = {name: part(kept, name) for name in (state["meta"]["products"] if state else {})}
    for i, stage in enumerate(stages[done:], done):
        resume = part(state, "running") if state and state["meta"]["running"] and i == done else None

        def wrapped(inner: State | None, i: int = i) -> State:
            whole = nest({"products": nest(products), "running": inner or new_state()})
            return new_state(whole["tensors"], whole["meta"] | {"stage": i})

        def keep(maker: Maker, wrapped: Callable[[State], State] = wrapped) -> None:
            if on_checkpoint is not None:
                on_checkpoint(lambda: wrapped(maker()))

        start = products[stage.init_from] if stage.init_from else None
        try:
            product = runners[stage.kind](Call(stage, start, resume, keep if on_checkpoint else None))
        except Interrupted as stopped:
            raise Interrupted(wrapped(stopped.state)) from stopped
        if stage.produces:
            if product is None:
                raise ValueError(f"stage {stage.name} should produce {stage.produces!r}, its runner returned nothing")
            products[stage.produces] = product
        if on_checkpoint is not None and i + 1 < len(stages):
            on_checkpoint(partial(wrapped, None, i + 1))
    return products


def _validate(stages: Sequence[Stage], runners: Mapping[str, Runner]) -> None:
    made: set[str] = set()
    for stage in stages:
        if stage.kind not in runners:
            raise ValueError(f"stage {stage.name}: no runner for kind {stage.kind!r}; there are {', '.join(runners)}")
        if stage.init_from and stage.init_from not in made:
            raise ValueError(f"stage {stage.name}: init_from={stage.init_from!r} is not produced by an earlier stage")
        if stage.produces:
            made.add(stage.produces)
