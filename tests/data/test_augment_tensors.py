"""Random changes on tensors against Pillow's of the same plan, which is the oracle."""

import math

import numpy as np
import pytest
import torch
from miniatures import augment_of
from PIL import Image
from torch import Tensor
from torch._subclasses import FakeTensorMode

from karst_bench.data.augment import pillow
from karst_bench.data.augment.plan import AugmentPlan, Step
from karst_bench.data.augment.policy import RandomAugment
from karst_bench.data.augment.tensors import WARPS, cropped, stepped
from karst_bench.data.task import ImageBatch

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SIZE = 48
FILL = torch.tensor([128, 102, 76], dtype=torch.uint8).view(3, 1, 1)


def scene(side: int, seed: int = 0) -> Tensor:
    """An image as smooth as photographs are, (3, side, side), over the levels 20 to 230."""
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, 6, 3, generator=generator)
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    level = sum(torch.sin(9 * (waves[:, i, 0, None, None] * x + waves[:, i, 1, None, None] * y) + 6 * waves[:, i, 2, None, None])
                for i in range(6))  # fmt: skip
    assert isinstance(level, Tensor)
    low, high = level.amin((1, 2), keepdim=True), level.amax((1, 2), keepdim=True)
    return (20 + 210 * (level - low) / (high - low)).round().to(torch.uint8)


def policy(erase: float = 0.0) -> RandomAugment:
    return RandomAugment(augment_of("fs_dtl", erase=erase), size=SIZE, mean=MEAN, std=STD)


def drawn(change: RandomAugment, batches: int) -> list[AugmentPlan]:
    return [plan for seed in range(batches)
            for plan in change.plans(84, [1.0] * 32, torch.Generator().manual_seed(seed))]  # fmt: skip


STEPS: dict[str, list[Step]] = {}
for _plan in drawn(policy(), 40):
    for _step in _plan.steps:
        STEPS.setdefault(_step.name, []).append(_step)


def by_pillow(step: Step, image: Tensor) -> Tensor:
    return torch.from_numpy(np.array(step.apply(Image.fromarray(image.permute(1, 2, 0).numpy())))).permute(2, 0, 1)


def test_all_of_randaugments_operations_were_drawn() -> None:
    assert len(STEPS) == 15 and all(len(steps) > 20 for steps in STEPS.values())


@pytest.mark.parametrize("name", sorted(STEPS))
def test_each_operation_does_what_pillow_does(name: str) -> None:
    """Colour operations to one level; what moves pixels to 0.6 levels on average, with the same pixels filled."""
    image = scene(SIZE)
    for step in STEPS[name][:20]:
        found, expected = stepped(image, step, FILL), by_pillow(step, image)
        assert found.dtype == torch.uint8 and found.shape == image.shape
        gap = (found.int() - expected.int()).abs()
        if name in WARPS:
            filled = [(side == FILL).all(0) for side in (found, expected)]
            assert (filled[0] != filled[1]).float().mean() < 0.001
            assert gap.float().mean() < 0.6
        else:
            assert gap.max() <= 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("Posterize", (0,)), ("Posterize", (8,)), ("Solarize", (256,)), ("Solarize", (0,)), ("SolarizeAdd", (128,))],
)
def test_ends_of_the_scales(name: str, arguments: tuple[int, ...]) -> None:
    """Nothing kept is black, all kept is the image, a threshold above white changes nothing, one at 0 inverts."""
    image = scene(SIZE)
    inverted = 255 - image
    added = torch.where(image < 128, image.int() + 128, image.int()).to(torch.uint8)
    expected = {("Posterize", 0): torch.zeros_like(image), ("Posterize", 8): image, ("Solarize", 256): image,
                ("Solarize", 0): inverted, ("SolarizeAdd", 128): added}[name, arguments[0]]  # fmt: skip
    assert torch.equal(stepped(image, Step(name, arguments, lambda image: image), FILL), expected)


@pytest.mark.parametrize("box", [(0, 0, 84, 84), (10.3, 20.7, 60.2, 50.1), (0, 3.5, 84, 60), (70.2, 70.9, 84, 84)])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_pillows(box: tuple[float, float, float, float], flip: bool) -> None:
    image = torch.randint(0, 256, (3, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = pillow.augment_with_pillow(image, AugmentPlan(box, flip, (), None, 0), size=SIZE, mean=torch.zeros(3, 1, 1),
                                      std=torch.ones(3, 1, 1))  # fmt: skip
    gap = (cropped(image[None], [box], [flip], SIZE)[0].float() - expected).abs()
    assert gap.max() <= 1 and gap.mean() < 0.01


def test_whole_plans_agree_with_pillow() -> None:
    """Every plan of 96 images; rounding before Equalize or Solarize may move a pixel far, but few of them."""
    change = policy()
    images = torch.stack([scene(84, seed) for seed in range(32)])
    for seed in range(3):
        plans = change.plans(84, [1.0, 1.5] * 16, torch.Generator().manual_seed(seed))
        found, expected = change.with_tensors(images, plans), torch.stack(
            [change.with_pillow(image, plan) for image, plan in zip(images, plans, strict=True)])  # fmt: skip
        assert found.dtype == torch.float32 and found.shape == expected.shape
        gap = (found - expected).abs()
        assert gap.mean() < 0.3 and gap.mean((1, 2, 3)).median() < 0.1


def test_erased_rectangles_are_noise_of_the_normalisation() -> None:
    change = policy(erase=1.0)
    plans = [AugmentPlan((0, 0, 84, 84), False, (), (4, 8, 30, 32), seed) for seed in (1, 2, 1)]
    one, two, again = change.with_tensors(scene(84).expand(3, -1, -1, -1), plans)
    noise = one[:, 4:34, 8:40]
    assert torch.equal(one, again) and not torch.equal(one, two)
    for channel, mean, std in zip(noise, MEAN, STD, strict=True):
        assert channel.mean() == pytest.approx(255 * mean, abs=5 * 255 * std / math.sqrt(30 * 32))
        assert channel.std() == pytest.approx(255 * std, rel=0.12)
    untouched = torch.ones(SIZE, SIZE, dtype=torch.bool)
    untouched[4:34, 8:40] = False
    assert torch.equal(one[:, untouched], two[:, untouched])


def test_no_value_is_read_back_from_the_device() -> None:
    """Tensors without values stand in for a GPU's: whatever asked for one, and so waited for the GPU, would raise."""
    change = policy(erase=0.5)
    plans = drawn(change, 3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(len(plans), 3, 84, 84, dtype=torch.uint8)
        assert change.with_tensors(images, plans).shape == (96, 3, SIZE, SIZE)
        with pytest.raises(Exception, match="local_scalar_dense"):
            int(images[0, 0, 0, 0])


@pytest.mark.gpu
def test_a_gpu_sees_what_the_cpu_sees() -> None:
    change = policy()
    images = torch.stack([scene(84, seed) for seed in range(32)])
    here, there = (change(ImageBatch(batch, torch.ones(32)), torch.Generator().manual_seed(0)) for batch in (images, images.cuda()))
    assert there.is_cuda and (here - there.cpu()).abs().mean() < 0.3
