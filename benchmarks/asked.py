"""What is asked of `python -m benchmarks`, from its words; its --help does without torch."""

from dataclasses import dataclass
from pathlib import Path

from karst_bench.errors import UserError, nearest

RESULTS = Path(__file__).parent / "results"
ON_GPU = ("gpu_steps", "gpu_methods", "gpu_evaluation", "gpu_forms", "gpu_long_run")
PARTS = ("steps", "evaluation", "forms", "scaling", "phases", "memory", "gpu", *ON_GPU)
EVERY = PARTS[:7]  # gpu: all that is measured on one


@dataclass(frozen=True)
class Asked:
    """What to measure. Raises: UserError for a part, model, row or number that does not exist."""

    parts: list[str]
    models: list[str]
    batches: list[int]
    gpu_batches: list[int]
    rounds: int
    depth: int | None
    rows: list[str] | None
    out: Path

    @classmethod
    def of(
        cls, *, only: str, model: str, batch: str, gpu_batch: str, rows: str, rounds: int, depth: int | None, out: Path
    ) -> "Asked":  # fmt: skip
        """From words as they are typed, several parted by commas, rows by semicolons."""
        import timm

        from benchmarks.rows import ROWS

        lists = {"only": _parts(only, ","), "model": _parts(model, ","), "rows": _parts(rows, ";")}
        for key, known in {"only": PARTS, "model": timm.list_models(), "rows": list(ROWS)}.items():
            for part in lists[key]:
                if part not in known:
                    shown = f" Known: {'; '.join(known)}" if len(known) < 20 else ""
                    raise UserError(f"{key}={part} does not exist{nearest(part, known) or '.'}{shown}")
        batches, gpu_batches = _counts("batch", batch), _counts("gpu_batch", gpu_batch)
        return cls(lists["only"], lists["model"], batches, gpu_batches, rounds, depth, lists["rows"] or None, out)


def _counts(key: str, text: str) -> list[int]:
    numbers = _parts(text, ",")
    for number in numbers:
        if not number.isdigit() or int(number) < 1:
            raise UserError(f"{key}={number} is not a whole number of at least 1")
    return [int(number) for number in numbers]


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]
