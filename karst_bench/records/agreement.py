"""Whether the parts of a finished record agree with each other; for readers of records that others may have touched."""

from collections.abc import Iterable

from karst_bench.records.identity import recomputed_id
from karst_bench.records.record import RunRecord
from karst_bench.records.strict_json import need

WHOLE = 0.02  # images; accuracies are kept as floating point per cents


def check_id(record: RunRecord) -> None:
    """Raises: RecordError where the id is not what configuration, weights and data make."""
    expected = recomputed_id(record)
    need(record.id == expected, f"its configuration, weights and data make the id {expected}, not {record.id}")


def check_agreement(record: RunRecord) -> None:
    """Id and configuration, accuracies and numbers of images, curves and recipe, peaks and checks.

    Raises: RecordError with the first pair that does not agree. What is forged with care passes: without the predictions
    no reader can tell.
    """
    check_id(record)
    metrics = record.metrics
    counted = [("test", metrics.test_top1_last_pct, metrics.test_n), ("test", metrics.test_top1_peak_pct, metrics.test_n)]
    for split, value, n in [*counted, ("val", metrics.val_top1_last_pct, metrics.val_n)]:
        if value is not None and n:
            images = value * n / 100
            need(abs(images - round(images)) < WHOLE, f"{value:.6g} % of {n} {split} images is no whole number of images")
    _check_curves(record)
    _check_best(record)


def _check_curves(record: RunRecord) -> None:
    epochs, planned = record.curves.epoch, _planned_epochs(record)
    need(epochs == tuple(range(1, len(epochs) + 1)), "curves.epoch does not count from 1")
    if planned is not None:
        need(len(epochs) == planned, f"its curves have {len(epochs)} epochs, its configuration {str(planned)[:40]}")
    late = [check.epoch for check in record.curves.checks if not 1 <= check.epoch <= len(epochs)]
    need(not late, f"curves.checks has epoch {late[0] if late else 0} of {len(epochs)}")


def _planned_epochs(record: RunRecord) -> object:
    """The recipe's, or those of a supernet after which nothing is trained; None where the configuration is silent."""
    recipe, method = record.config.get("recipe"), record.config.get("method")
    stages = method.get("stages") if isinstance(method, dict) else None
    last = stages.get("supernet") if isinstance(stages, dict) and stages.get("train") is None else recipe
    return last.get("epochs") if isinstance(last, dict) else None


def _check_best(record: RunRecord) -> None:
    metrics, checks = record.metrics, record.curves.checks
    tested = [check.top1_pct for check in checks if check.split == "test"]
    if metrics.test_top1_peak_pct is not None:
        last = [] if metrics.test_top1_last_pct is None else [metrics.test_top1_last_pct]
        _same("test_top1_peak_pct", metrics.test_top1_peak_pct, [*last, *tested])
    if metrics.val_top1_best_pct is not None:
        _same("val_top1_best_pct", metrics.val_top1_best_pct, [check.top1_pct for check in checks if check.split != "test"])
    if metrics.best_epoch is not None:
        need(metrics.best_epoch in {check.epoch for check in checks}, f"best_epoch {metrics.best_epoch} is none of its checks")


def _same(name: str, value: float, looks: Iterable[float]) -> None:
    highest = max(looks, default=None)
    need(highest is not None and abs(highest - value) < 1e-6, f"{name} is {value:.6g}, the highest of its checks {highest}")
