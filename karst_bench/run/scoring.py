"""The stage before training: scored methods look at the training split once; what they find is a file of its own.

Its name is the run's id, so it is keyed by all that decides it. A run killed while scoring starts that stage again; one
killed later reads the file.
"""

import logging
from typing import Any

from torch import Tensor

from karst_bench.adapt.scoring import score_methods
from karst_bench.engine.checkpoint import State, nest, new_state, part
from karst_bench.engine.streams import Streams, forked, seeded
from karst_bench.methods.base import Artefact
from karst_bench.records.store import Store
from karst_bench.run.prepare import PreparedRun

log = logging.getLogger(__name__)


def find_artefacts(prepared: PreparedRun, store: Store) -> dict[str, Artefact]:
    """What every scored method of a run found, by method name; nothing where none is scored.

    Raises: UserError where the file is damaged or cannot be written.
    """
    scored = [method.name for method in prepared.methods if method.scored]
    if not scored:
        return {}

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        log.info("%s: %s scored on %s", prepared.title, " and ".join(scored), prepared.plan.train)
        state = _score(prepared)
        return state["tensors"], state["meta"]

    state = new_state(*store.artefact(prepared.id, make))
    parts = {name: part(state, name) for name in scored}
    return {name: Artefact(found["tensors"], found["meta"]) for name, found in parts.items()}


def _score(prepared: PreparedRun) -> State:
    """The artefacts as one state, from the head that training will start with, in fp32."""
    streams = Streams(prepared.settings.seed)
    with seeded(streams.init):
        net = prepared.backbone()
    with forked(streams.seed_of("score")):
        found = score_methods(net, prepared.methods, lambda size: prepared.batches(prepared.plan.train, size=size).epoch(None))
    return nest({name: new_state(artefact.tensors, artefact.facts) for name, artefact in found.items()})
