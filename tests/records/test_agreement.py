"""Curves are as long as what was trained last."""

import pytest

from karst_bench.records.agreement import check_agreement
from karst_bench.records.strict_json import RecordError
from tests.records.conftest import CONFIG, build

SUPERNET = {"supernet": {"epochs": 2}, "evolve": {}, "train": None}
RETRAINED = {"supernet": {"epochs": 7}, "evolve": {}, "train": {"epochs": None}}


def record_of(epochs: int, stages: dict | None):
    method = CONFIG["method"] | ({} if stages is None else {"stages": stages})
    return build(CONFIG | {"method": method, "recipe": CONFIG["recipe"] | {"epochs": epochs}})  # its curves have 2 epochs


@pytest.mark.parametrize(("epochs", "stages"), [(2, None), (15, SUPERNET), (2, RETRAINED)])
def test_curves_of_what_was_trained_last(epochs, stages) -> None:
    check_agreement(record_of(epochs, stages))


@pytest.mark.parametrize(
    ("epochs", "stages", "planned"),
    [(15, None, 15), (2, SUPERNET | {"supernet": {"epochs": 7}}, 7), (15, RETRAINED, 15)],
)
def test_curves_of_another_length_are_refused(epochs, stages, planned) -> None:
    with pytest.raises(RecordError, match=f"its curves have 2 epochs, its configuration {planned}"):
        check_agreement(record_of(epochs, stages))
