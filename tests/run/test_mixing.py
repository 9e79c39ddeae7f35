"""Batches that are mixed are batches of images: no run mixes what a frozen backbone made of them."""

from pathlib import Path

import pytest

from karst_bench.config.compose import settings_of
from karst_bench.engine.streams import Streams
from karst_bench.run.prepare import prepare
from karst_bench.run.training import _trainee


@pytest.mark.parametrize(("words", "whole"), [((), False), (("augment.mixup=0.8",), True), (("augment.flip=0.5",), True)])
def test_a_linear_probe_is_trained_on_images_where_they_change(words: tuple[str, ...], whole: bool, mini_cache: Path) -> None:
    prepared = prepare(settings_of([
        "dataset=mini/digits", "method=linear", "backbone.weights=none", "backbone.model_args.depth=1", "device=cpu",
        f"paths.cache={mini_cache}", *words,
    ]))  # fmt: skip
    model = prepared.model(Streams(0), {})
    assert (_trainee(model, prepared)[0] is model) == whole
    assert prepared.mixing == ((0.8, 0.0) if "augment.mixup=0.8" in words else None)
