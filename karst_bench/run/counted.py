"""Counts that runs of one model share: following its shapes takes half a second, a fifth of a small run on a GPU."""

from collections.abc import Callable

from karst_bench.run.prepare import PreparedRun, method_settings


class CountedOnce:
    """What was counted in this process, by model and by what was counted."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, int]] = {}

    def of(self, prepared: PreparedRun, what: str, count: Callable[[], dict[str, int]]) -> dict[str, int]:
        """What count() gave for a model of this kind, or gives now."""
        kind = kind_of_model(prepared)
        if kind is None:
            return count()
        if (what, kind) not in self._found:
            self._found[what, kind] = count()
        return dict(self._found[what, kind])


def kind_of_model(prepared: PreparedRun) -> str | None:
    """Whatever decides the shapes of a run's model; None where its images or each step's choices do too."""
    if any(method.scored or method.search_stages() or not method.graphable for method in prepared.methods):
        return None
    settings = prepared.settings
    said = method_settings(settings) | {
        "backbone": settings.backbone, "classes": settings.dataset["classes"], "drop_path": settings.recipe.drop_path,
        "regularizer": settings.regularizer, "recompute": settings.recompute, "speed": prepared.speed,
        "device": str(prepared.device),
    }  # fmt: skip
    return repr(said)
