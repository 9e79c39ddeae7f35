"""What a step would launch and keep on a GPU, counted on tensors without values."""

import pytest
import torch

from benchmarks.fake_gpu import cuda_without_a_driver, forward_and_backward, kept_bytes
from benchmarks.rows import Case, floor, karst, lora, of_method
from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.speed.activation_recompute import recompute

pytestmark = pytest.mark.skipif(not cuda_without_a_driver(), reason="this torch asks a CUDA driver, or was built for none")
SMALL = Case("vit_tiny_patch16_224", 2, 2)
IMAGES = torch.zeros(2, 3, 224, 224)


def operations(net):
    return forward_and_backward(net, IMAGES)[0].operations


def test_operations_of_a_step():
    """ATen operations but views and casts, forward and backward: KARST at most 30 more than the floor for each adapted layer."""
    least = len(operations(floor(SMALL)))
    for net, most in ((karst(SMALL, short=False), 30), (lora(SMALL), 12)):
        layers = len(adapted_model(net).layers)
        assert len(operations(net)) <= least + most * layers


def test_lora_with_dropout_copies_no_output():
    """Its updates of q and v are one product onto the projection's output, nothing as wide as that is put together."""
    width = 3 * 192
    wide = [name for name, args in operations(of_method(SMALL, "lora"))
            if name.startswith("cat") and any(tensor.ndim == 3 and tensor.shape[-1] >= width // 3 for tensor in args[0])
            and args[1:] == (-1,)]  # fmt: skip
    assert not wide


def test_kept_for_backward():
    """KARST keeps at most 1.15 times what the floor keeps, cast weights counted, with norms and GELUs computed again, which a
    GPU does by default; with recompute=true at most as much."""
    case = Case("vit_base_patch16_224", 4, 3)
    images = torch.zeros(64, 3, 224, 224)
    least = kept_bytes(floor(case), images)["kept_bytes"]
    for outputs, most in ((False, 1.15), (True, 1.0)):
        net = karst(case)
        recompute(net, outputs=outputs)
        assert kept_bytes(net, images)["kept_bytes"] <= most * least
