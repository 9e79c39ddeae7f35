"""Views, the normalisation knob, and the few-shot augmentation."""

import math
import random

import pytest
import torch
from miniatures import augment_of

from karst_bench.data.augment.pillow import augment_with_pillow
from karst_bench.data.augment.plan import AugmentPlan, crop_box, rectangle
from karst_bench.data.augment.policy import augmentation
from karst_bench.data.resize import Resize, normalisation
from karst_bench.data.task import ImageBatch
from karst_bench.errors import UserError

HALF = (0.5, 0.5, 0.5)


def batch(count: int = 8, side: int = 56, aspect: float = 1.0) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return ImageBatch(images, torch.full((count,), aspect))


def test_views_by_name() -> None:
    image = batch(1, 100).images[0]
    assert Resize("vtab", 32)(image).shape == (3, 32, 32)
    assert Resize("fs_train", 32, 1.75)(image).shape == (3, 56, 56)
    assert Resize("fs_train", 224, 1.142857)(image).shape == (3, 256, 256)  # the nearest number of pixels to 255.99997
    assert torch.equal(Resize("vtab", 100)(image), image)
    with pytest.raises(UserError, match="fs_test"):
        Resize("bigger", 32)


def test_fs_test_is_256_then_the_central_224() -> None:
    """An image whose left eighth is white loses 16 of 256 columns at each side: 32 - 16 = 16 of 224 stay white."""
    image = torch.zeros(3, 256, 256, dtype=torch.uint8)
    image[:, :, :32] = 255
    seen = Resize("fs_test", 224)(image)
    assert seen.shape == (3, 224, 224)
    assert (seen[0, 0] == 255).sum() == 16


def test_normalisation_knob() -> None:
    own = ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    assert normalisation("model", *own) == own
    assert normalisation("half", *own) == (HALF, HALF)
    assert normalisation("imagenet", *own)[0] == (0.485, 0.456, 0.406)
    assert normalisation("none", *own) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="normalization=inception"):
        normalisation("inception", *own)


@pytest.mark.parametrize("name", ["fs_dtl", "fs_noah"])
def test_augmentation_follows_its_generator(name: str) -> None:
    change = augmentation(augment_of(name), size=32, mean=HALF, std=HALF)
    assert change is not None
    images, state = batch(), random.getstate()
    kept = images.images.clone()
    one, two, other = (change(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == (8, 3, 32, 32) and one.dtype == torch.float32
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(images.images, kept) and random.getstate() == state


def test_every_operation_runs_at_every_strength() -> None:
    """Many draws: among them the strongest Posterize, which keeps 0 bits and which Pillow refuses."""
    change = augmentation(augment_of("fs_dtl"), size=8, mean=HALF, std=HALF)
    assert change is not None
    for seed in range(20):
        found = change(batch(32, 14), torch.Generator().manual_seed(seed))
        assert found.min() >= 0 and found.max() <= 255


def test_nothing_to_change_is_no_augmentation() -> None:
    """Mixup alone leaves each image as it is: the engine mixes whole batches."""
    assert augmentation(augment_of("none"), size=8, mean=HALF, std=HALF) is None
    assert augmentation(augment_of("none", mixup=0.8), size=8, mean=HALF, std=HALF) is None


@pytest.mark.parametrize("policy", ["augmix-m5", "rand-x3"])
def test_a_policy_that_timm_does_not_know_is_named(policy: str) -> None:
    with pytest.raises(UserError, match=rf"augment\.policy={policy}.*rand-m9"):
        augmentation(augment_of("fs_dtl", policy=policy), size=8, mean=HALF, std=HALF)


def test_each_part_acts_by_itself() -> None:
    """With one part of fs_noah switched on, a batch shows this change and no other."""
    images = batch(16, 32)

    def changed(**on: object) -> torch.Tensor:
        change = augmentation(augment_of("none", **on), size=32, mean=HALF, std=HALF)
        assert change is not None
        return change(images, torch.Generator().manual_seed(0))

    flipped = changed(flip=1.0)
    assert torch.equal(flipped, images.images.flip(-1).float())
    erased = (changed(erase=1.0) != images.images).any(1).float().mean((1, 2))
    assert (erased > 0.01).all() and (erased < 0.36).all()
    whole = changed(crop={"scale": [1.0, 1.0], "ratio": [1.0, 1.0]})
    assert torch.equal(whole, images.images.float())
    assert not torch.equal(changed(policy="rand-m9"), images.images.float())


@pytest.mark.parametrize("aspect", [0.4, 1.0, 4 / 3, 3.0])
def test_crops_keep_to_their_bounds_in_the_images_own_proportions(aspect: float) -> None:
    rng, scale, ratio = random.Random(0), (0.08, 1.0), (3 / 4, 4 / 3)
    for _ in range(500):
        left, top, right, bottom = crop_box(rng, aspect, scale=scale, ratio=ratio)
        assert 0 <= left < right <= 1 + 1e-9 and 0 <= top < bottom <= 1 + 1e-9
        proportion = (right - left) * aspect / (bottom - top)
        assert ratio[0] - 1e-9 <= proportion <= ratio[1] + 1e-9
        assert scale[0] - 1e-9 <= (right - left) * (bottom - top) <= 1 + 1e-9


def test_crops_and_rectangles_are_spread_as_torchvision_and_timm_say() -> None:
    """Areas even between their bounds; ratios even on a logarithmic scale: as many upright as lying. 5 standard errors of 2000."""
    rng, n = random.Random(3), 2000
    boxes = [crop_box(rng, 1.0, scale=(0.08, 0.2), ratio=(3 / 4, 4 / 3)) for _ in range(n)]
    sizes = {"crop": [(bottom - top, right - left) for left, top, right, bottom in boxes]}
    sizes["erased"] = [(h / 1000, w / 1000) for _, _, h, w in filter(None, (rectangle(rng, 1000) for _ in range(n)))]
    for name, low, high in (("crop", 0.08, 0.2), ("erased", 0.02, 1 / 3)):
        areas = [height * width for height, width in sizes[name]]
        bound = 5 * (high - low) / math.sqrt(12 * n)
        assert abs(sum(areas) / len(areas) - (low + high) / 2) < 2 * bound  # erased: few are too long for the square
        assert max(areas) > high - 0.02 * (high - low)
        assert abs(sum(height > width for height, width in sizes[name]) / len(areas) - 0.5) < 5 * 0.5 / math.sqrt(n)


def test_what_is_erased_is_noise_of_the_models_mean_and_deviation() -> None:
    mean, std = torch.tensor([40.0, 120.0, 200.0]), torch.tensor([5.0, 10.0, 20.0])
    plan = AugmentPlan((0.0, 0.0, 64.0, 64.0), False, (), (0, 0, 64, 64), 7)
    black = torch.zeros(3, 64, 64, dtype=torch.uint8)
    found = augment_with_pillow(black, plan, size=64, mean=mean[:, None, None], std=std[:, None, None]).flatten(1)
    assert torch.allclose(found.mean(1), mean, atol=0, rtol=0.02) and torch.allclose(found.std(1), std, atol=0, rtol=0.05)


def test_crops_use_the_noted_aspect() -> None:
    """A square of an image that was twice as wide as high: crops cover fewer of its columns than of its rows."""
    change = augmentation(augment_of("fs_dtl"), size=8, mean=HALF, std=HALF)
    assert change is not None
    plain = change(batch(), torch.Generator().manual_seed(0))
    wide = change(batch(aspect=2.0), torch.Generator().manual_seed(0))
    assert not torch.equal(plain, wide)
