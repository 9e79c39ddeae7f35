"""conf/backbone: what is said of each listed backbone is what timm says; unlisted ones are asked of timm."""

import pytest
import timm

from karst_bench.adapt.backbone import own_values
from karst_bench.config.option_files import options
from karst_bench.errors import UserError


@pytest.mark.parametrize("name", [name for name in options("backbone") if not name.endswith("_mini")])
def test_values_are_timms(settings, name):
    backbone = settings(f"backbone={name}")["backbone"]
    config = timm.get_pretrained_cfg(backbone["timm_name"], allow_unregistered=False)
    assert (3, backbone["input_size"], backbone["input_size"]) == config.input_size
    assert (tuple(backbone["mean"]), tuple(backbone["std"])) == (config.mean, config.std)
    assert own_values(backbone) == {key: backbone[key] for key in ("input_size", "mean", "std")}


def test_a_backbone_of_ones_own_is_asked_of_timm(settings):
    backbone = settings("backbone=vit_b16", "backbone.timm_name=vit_base_patch16_384.augreg_in1k")["backbone"]
    assert backbone["mean"] is None
    assert own_values(backbone) == {"input_size": 384, "mean": [0.5] * 3, "std": [0.5] * 3}
    for name in ("vit_base_patch16_3", "vit_base_patch16_224.none_such"):
        with pytest.raises(UserError, match=rf"timm_name={name}.*Near: vit_base_patch16"):
            own_values(backbone | {"timm_name": name})
