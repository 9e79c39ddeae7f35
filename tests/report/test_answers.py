"""Calibration and per-class accuracy, against cases small enough to count by hand, and scikit-learn."""

import numpy as np
import pytest

from karst_bench.records.diagnostics import Diagnostics, FeatureFacts, UpdateFacts
from karst_bench.report.answers import answers_facts
from karst_bench.report.diagnostic_figures import write_diagnostic_figures


def facts(top1: list[int], probability: list[float], label: list[int], classes: int) -> Diagnostics:
    return Diagnostics(**answers_facts(np.array(top1), np.array(probability), np.array(label), classes=classes))


def test_four_images_by_hand() -> None:
    found = facts([0, 0, 1, 1], [0.95, 0.95, 0.55, 0.65], [0, 1, 1, 1], 3)
    assert found.per_class_pct == (100.0, pytest.approx(200 / 3), None)
    assert found.mean_per_class_pct == pytest.approx((100 + 200 / 3) / 2)
    assert found.confusion == ((1, 0, 0), (1, 2, 0), (0, 0, 0))
    # bins of 1/15: 0.95 twice (right once), 0.55 and 0.65 alone (right both)
    assert found.ece_pct == pytest.approx((2 * abs(50 - 95) + abs(100 - 55) + abs(100 - 65)) / 4)
    assert [b.n for b in found.reliability if b.n] == [1, 1, 2] and len(found.reliability) == 15


def test_a_bin_holds_its_upper_edge() -> None:
    assert [i for i, b in enumerate(facts([0, 0], [1 / 15, 1.0], [0, 0], 1).reliability) if b.n] == [0, 14]


def test_as_scikit_learn_counts() -> None:
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix

    draw = np.random.default_rng(0)
    label, top1 = draw.integers(0, 7, 500), draw.integers(0, 7, 500)
    found = facts(list(top1), list(draw.random(500)), list(label), 7)
    assert found.mean_per_class_pct == pytest.approx(100 * balanced_accuracy_score(label, top1))
    assert np.array_equal(found.confusion, confusion_matrix(label, top1))


def test_many_classes_keep_no_confusion() -> None:
    assert facts([0], [0.5], [0], 200).confusion == ()


def test_every_part_has_a_picture_and_one_that_is_not_known_has_none(tmp_path) -> None:
    found = facts([0, 1, 1], [0.9, 0.6, 0.7], [0, 1, 0], 2)
    write_diagnostic_figures(found, tmp_path, title="lora on mini/digits", class_names=("a", "b"))
    assert {path.stem for path in tmp_path.iterdir()} == {"reliability", "confusion"}
    whole = Diagnostics(
        features=(FeatureFacts(path="blocks.0", mean_before=0.0, std_before=1.0, mean_after=0.1, std_after=1.1),) * 2,
        updates=(UpdateFacts(path="blocks.0.attn.qkv", effective_rank=3.0, largest_rank=48, relative_norm=0.1),) * 2,
    )
    write_diagnostic_figures(whole, tmp_path, title="lora on mini/digits", class_names=())
    assert {path.stem for path in tmp_path.glob("*.png")} == {"reliability", "confusion", "features", "effective_rank"}
