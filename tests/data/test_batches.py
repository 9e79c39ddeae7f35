"""Batches: order, normalisation, augmentation, resuming; the splits they read."""

import pytest
import torch

from karst_bench.data.loader import SplitBatches
from karst_bench.data.task import ArraySplit, ImageBatch, JoinedSplit, LazySplits

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def split_of(n: int, name: str = "train800", first: int = 0, aspects: torch.Tensor | None = None) -> ArraySplit:
    images = torch.arange(first, first + n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 4, 4).contiguous()
    return ArraySplit(name, images, torch.arange(first, first + n), aspects)


def batches_of(n: int = 10, batch: int = 4, augment=None) -> SplitBatches:
    return SplitBatches(split_of(n), batch=batch, mean=MEAN, std=STD, device="cpu", augment=augment)


def test_in_order_without_a_generator_and_nothing_dropped():
    batches = batches_of()
    labels = [y.tolist() for _, y in batches.epoch(None)]
    assert labels == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(batches) == 3


@pytest.mark.parametrize(("n", "sizes"), [(10, [4, 4]), (8, [4, 4]), (3, [3])])
def test_a_smaller_last_batch_is_left_out_where_asked_but_never_an_only_one(n, sizes):
    batches = SplitBatches(split_of(n), batch=4, mean=MEAN, std=STD, device="cpu", drop_last=True)
    assert [len(y) for _, y in batches.epoch(torch.Generator().manual_seed(0))] == sizes
    assert len(batches) == len(sizes)


def test_normalised_as_pixel_over_255_minus_mean_over_std():
    x, y = next(batches_of().epoch(None))
    assert x.dtype == torch.float32 and x.shape == (4, 3, 4, 4)
    for channel in range(3):
        want = (y.float() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(x[:, channel, 0, 0], want)


def test_shuffle_follows_the_generator_and_keeps_labels_with_images():
    runs = [torch.cat([y for _, y in batches_of().epoch(torch.Generator().manual_seed(s))]) for s in (0, 0, 1)]
    assert runs[0].tolist() == runs[1].tolist() != runs[2].tolist()
    assert sorted(runs[0].tolist()) == list(range(10))
    for x, y in batches_of().epoch(torch.Generator().manual_seed(3)):
        pixel = (x[:, 0, 0, 0] * STD[0] + MEAN[0]) * 255
        assert pixel.round().long().tolist() == y.tolist()


def noise(batch: ImageBatch, generator: torch.Generator) -> torch.Tensor:
    images = batch.images
    return images + torch.randint(0, 50, images.shape, generator=generator, dtype=torch.uint8)


def test_every_step_draws_its_own_augmentation():
    same = ArraySplit("train800", torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    batches = SplitBatches(same, batch=4, mean=MEAN, std=STD, device="cpu", augment=noise)
    first, second = (x for x, _ in batches.epoch(torch.Generator().manual_seed(5)))
    assert not torch.equal(first, second)


def test_a_resumed_epoch_equals_the_tail_of_the_unbroken_one():
    batches = batches_of(augment=noise)
    whole = list(batches.epoch(torch.Generator().manual_seed(5)))
    tail = list(batches.epoch(torch.Generator().manual_seed(5), skip=2))
    assert len(tail) == 1
    torch.testing.assert_close(tail[0][0], whole[2][0], rtol=0, atol=0)
    assert list(batches.epoch(torch.Generator().manual_seed(5), skip=3)) == []


def test_the_generator_moves_on_equally_with_and_without_skip():
    ends = []
    for skip in (0, 3):
        generator = torch.Generator().manual_seed(7)
        list(batches_of(augment=noise).epoch(generator, skip=skip))
        ends.append(torch.rand((), generator=generator).item())
    assert ends[0] == ends[1]


def wide(batch: ImageBatch, generator: torch.Generator) -> torch.Tensor:
    """An augmentation that looks at the proportions of the images."""
    return noise(batch, generator) * batch.aspects.view(-1, 1, 1, 1)


@pytest.mark.parametrize("augment", [None, wide])
def test_a_held_split_gives_the_same_batches_and_is_read_once(augment):
    aspects = torch.linspace(0.5, 2, 10)
    split, reads = split_of(10, aspects=aspects), []
    real = split.read
    split.read = lambda index: reads.append(len(index)) or real(index)
    held = SplitBatches(split, batch=4, mean=MEAN, std=STD, device="cpu", augment=augment, hold=True)
    loose = SplitBatches(split_of(10, aspects=aspects), batch=4, mean=MEAN, std=STD, device="cpu", augment=augment, hold=False)
    for epoch in range(2):
        expected = loose.epoch(torch.Generator().manual_seed(epoch), skip=epoch)
        got = held.epoch(torch.Generator().manual_seed(epoch), skip=epoch)
        for (x, y), (want_x, want_y) in zip(got, expected, strict=True):
            assert torch.equal(x, want_x) and torch.equal(y, want_y)
    assert reads == [10]


def test_augment_only_with_a_generator():
    plain = torch.cat([x for x, _ in batches_of(augment=noise).epoch(None)])
    torch.testing.assert_close(plain, torch.cat([x for x, _ in batches_of().epoch(None)]), rtol=0, atol=0)


def test_joined_split_reads_through_its_parts():
    joined = JoinedSplit("train800val200", (split_of(6), split_of(4, "val200", first=6)))
    assert len(joined) == 10 and joined.labels.tolist() == list(range(10))
    index = torch.tensor([7, 0, 9, 5, 6])
    assert joined.read(index).images[:, 0, 0, 0].tolist() == index.tolist()
    assert joined.read(torch.tensor([], dtype=torch.int64)).images.shape == (0, 3, 4, 4)


def test_a_joined_split_keeps_the_aspects_of_its_parts():
    """Crops are drawn in an image's own proportions, wherever it lies."""
    aspects = torch.linspace(0.5, 3, 10)
    parts = split_of(6, aspects=aspects[:6]), split_of(4, "val200", first=6, aspects=aspects[6:])
    index = torch.tensor([7, 0, 9, 5, 6])
    assert torch.equal(JoinedSplit("train800val200", parts).read(index).aspects, aspects[index])
    assert split_of(2).read(torch.tensor([1])).aspects.tolist() == [1.0]


def test_lazy_splits_are_made_once_and_only_when_asked():
    made: list[str] = []
    splits = LazySplits({"test": lambda: (made.append("test"), split_of(3, "test"))[1]})
    assert list(splits) == ["test"] and made == []
    assert splits["test"] is splits["test"] and made == ["test"]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"std": (0.1, 0.0, 0.1)}, "std above 0"),
        ({"mean": (0.1,)}, "three numbers"),
    ],
)
def test_bad_arguments_say_what_and_why(kwargs, text):
    good = {"batch": 4, "mean": MEAN, "std": STD, "device": "cpu"}
    with pytest.raises(ValueError, match=text):
        SplitBatches(split_of(4), **(good | kwargs))


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        ArraySplit("test", torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="one class index per image"):
        ArraySplit("test", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="one width over height per image"):
        split_of(3, aspects=torch.ones(2))
    with pytest.raises(ValueError, match=r"skip=9 must lie in 0\.\.3"):
        next(batches_of().epoch(None, skip=9))
