"""One pass over a split: what is said of each image, in which mode and precision; the sums of an epoch."""

import pytest
import torch
from torch.nn.functional import softmax

from karst_bench.engine.evaluate import predict_logits, top1
from karst_bench.engine.meter import EpochMeter
from karst_bench.engine.outcome import Fit

CPU = torch.device("cpu")


def test_answers_are_the_softmax_of_each_image_in_order(net, batches):
    model = net()
    kept = top1(model, batches, precision="fp32", device=CPU, keep=True).answers
    chances = softmax(model.eval()(batches.x).detach(), 1)
    assert torch.equal(kept.top1, chances.argmax(1)) and torch.equal(kept.label, batches.y)
    torch.testing.assert_close(kept.probability, chances.max(1).values)
    assert float(kept.probability.min()) >= 1 / 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predicted_logits_are_those_of_evaluation_in_fp32(net, batches, precision):
    """The tiny network drops 20 and 30 %: in train mode no two passes agree."""
    model = net().train()
    logits = predict_logits(model, batches, precision=precision, device=CPU)
    assert logits.dtype == torch.float32 and model.training
    plain = model.eval()(batches.x).detach()
    torch.testing.assert_close(logits, plain, **({"rtol": 0.05, "atol": 0.02} if precision == "bf16" else {}))


def test_an_epoch_counts_images_not_batches():
    """(4 * 1 + 4 * 2 + 2 * 7) / 10 and 6 of 10: a smaller last batch weighs less."""
    seen = EpochMeter([torch.tensor(loss) for loss in (1.0, 2.0, 7.0)], [torch.tensor(hits) for hits in (3, 1, 2)], [4, 4, 2])
    assert seen.means() == (pytest.approx(2.6), pytest.approx(60.0))


def test_the_peak_of_a_fit_is_its_highest_look():
    checks = [{"epoch": e, "split": s, "top1_pct": v} for e, s, v in ((1, "test", 50.0), (2, "test", 70.0), (2, "val", 90.0))]
    checks.append({"epoch": 3, "split": "test", "top1_pct": 60.0})
    fit = Fit(curves={"checks": checks}, best_epoch=None, best_top1_pct=None, steps=3, images=9, train_s=1.0, check_s=1.0,
              step_ms_median=None)  # fmt: skip
    assert (fit.peak("test"), fit.check("test", 3), fit.peak("train")) == (70.0, 60.0, None)
