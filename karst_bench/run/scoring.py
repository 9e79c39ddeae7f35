"""The stage of scored methods: they look at the training split once, and are attached from what they found."""

from karst_bench.adapt.scoring import score_methods
from karst_bench.engine.checkpoint import State, nest, new_state, part
from karst_bench.engine.repeatable import RepeatableStep
from karst_bench.engine.streams import Streams, exact_convolutions, forked, seeded
from karst_bench.methods.base import Artefact
from karst_bench.records.store import Store
from karst_bench.run.prepare import PreparedRun
from karst_bench.run.stages import Found, Stage, Workload
from karst_bench.stopping import watched


def score_stage(prepared: PreparedRun, store: Store) -> Found:
    """What every scored method of a run found. Raises: Stopped between two batches."""
    scored = [method.name for method in prepared.methods if method.scored]
    stage = Stage(prepared, store, ("score", "train"), "score", Workload({}))
    score = RepeatableStep(_score, prepared.device) if prepared.device.type == "cuda" else _score  # which entries are the largest
    state = stage.product(lambda _: score(prepared), f"{' and '.join(scored)} on {prepared.plan.train}")
    parts = {name: part(state, name) for name in scored}
    return Found({name: Artefact(found["tensors"], found["meta"]) for name, found in parts.items()}, stage.written)


def _score(prepared: PreparedRun) -> State:
    """The artefacts as one state, from the head that training will start with, in fp32."""
    streams = Streams(prepared.settings.seed)
    with seeded(streams.init):
        net = prepared.backbone()
    with forked(streams.seed_of("score")), exact_convolutions():
        found = score_methods(
            net, prepared.methods, lambda size: watched(prepared.batches(prepared.plan.train, size=size).epoch(None))
        )
    return nest({name: new_state(artefact.tensors, artefact.facts) for name, artefact in found.items()})
