"""KITTI objects: the left colour pictures, their labels, and the devkit that tells which video each picture is from."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from karst_bench.data.builders.archive import members, open_member
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, by_member
from karst_bench.data.sources.vtab_labels import rule
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

SITE = "https://s3.eu-central-1.amazonaws.com/avg-kitti/"
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
PERCENT, SEED = 10, 123


class Kitti(RawReader):
    """Keys: NNNNNN.png of training/. Label: how far the closest car, van or truck is, in four steps.

    tensorflow-datasets cuts by video: a tenth of the sorted video ids is drawn for the test split (numpy's legacy seed
    123), then as many of the rest for validation.
    """

    archives = (
        Archive("data_object_image_2.zip", SITE + "data_object_image_2.zip", 12569945557,
                "351c5a2aa0cd9238b50174a3a62b846bc5855da256b82a196431d60ff8d43617", also=("data_object_image_2",)),
        Archive("data_object_label_2.zip", SITE + "data_object_label_2.zip", 5601213,
                "4efc76220d867e1c31bb980bbf8cbc02599f02a9cb4350effa98dbb04aaed880", also=("data_object_label_2",)),
        Archive("devkit_object.zip", SITE + "devkit_object.zip", 63794,
                "ce0b76b69c0c5f89690a0d65b7302bbbdb962a0c7e8aba6efc7050d1b04b4cf1", also=("devkit_object",)),
    )  # fmt: skip

    def labels(self, split: str) -> dict[Key, int]:
        """{file: distance}."""
        try:
            return {f"{number:06d}.png": self._distances[number] for number in self._numbers[split]}
        except KeyError as error:
            raise UserError(
                f"{self.at(1)}: holds no training/label_2/{int(error.args[0]):06d}.txt; fetch it again"
            ) from error

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        names = {f"image_2/{key}": (split, key) for split, keys in wanted.items() for key in keys}
        yield from by_member(self.at(0), names, "training/")

    @cached_property
    def _distances(self) -> dict[int, int]:
        label, found = rule("kitti_distance"), {}
        for member in members(self.at(1)):
            folder, _, name = member.name.rpartition("/")
            if folder.endswith("training/label_2") and name[:6].isdecimal() and name.endswith(".txt"):
                found[int(name[:6])] = label({"objects": _objects(member.read(), self.at(1), name)})
        return found

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        path = self.at(2)
        lines = open_member(path, "mapping/train_mapping.txt").decode("utf-8", "replace").splitlines()
        order = open_member(path, "mapping/train_rand.txt").decode("utf-8", "replace").split(",")
        videos: dict[str, list[int]] = {}
        try:
            for number, line in enumerate(order):
                if not 0 < int(line) <= len(lines):
                    raise ValueError(f"line {int(line)} of {len(lines)}")
                videos.setdefault(lines[int(line) - 1].split(" ")[1], []).append(number)
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{path}: mapping/train_mapping.txt and train_rand.txt do not fit together ({error})"
            ) from error
        return cut_by_video(videos)


def cut_by_video(videos: dict[str, list[int]]) -> dict[str, list[int]]:
    """{train, validation, test: numbers of pictures} from {video: numbers of its pictures}."""
    random = np.random.RandomState(SEED)
    count = max(1, PERCENT * len(videos) // 100)
    test = {str(name) for name in random.choice(sorted(videos), count, replace=False)}
    validation = {str(name) for name in random.choice(sorted(set(videos) - test), count, replace=False)}
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for name, numbers in videos.items():
        found["test" if name in test else "validation" if name in validation else "train"] += numbers
    return found


def _objects(data: bytes, path: Path, name: str) -> dict[str, np.ndarray]:
    """Types and places of the objects of one picture; DontCare areas are none."""
    types, places = [], []
    for line in data.decode("utf-8", "replace").splitlines():
        words = line.split()
        if not words or words[0] == "DontCare":
            continue
        try:
            types.append(TYPES.index(words[0]))
            places.append([float(word) for word in words[11:14]])
            if len(words) != 15:
                raise ValueError(f"{len(words)} words, not 15")
        except ValueError as error:
            raise UserError(f"{path}: a line of {name} is no KITTI object ({error}): {line[:80]!r}") from error
    return {"type": np.array(types, dtype=np.int64), "location": np.array(places, dtype=np.float64).reshape(-1, 3)}
