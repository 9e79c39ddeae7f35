"""The label rules of VTAB-1K that are more than a field of the example (Zhai et al. 2019, task_adaptation/data)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

CLEVR_DEPTHS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_METRES = (-100.0, 8.0, 20.0, 999.0)
KITTI_VEHICLES = 3  # types 0, 1, 2 are Car, Van, Truck
NO_VEHICLE = 1000.0


def step(thresholds: tuple[float, ...], value: float) -> int:
    """The largest i with thresholds[i] < value (strictly)."""
    return sum(limit < value for limit in thresholds) - 1


def clevr_count(example: Mapping[str, Any]) -> int:
    """Objects in the scene (3 to 10) minus 3."""
    return len(example["objects"]["pixel_coords"]) - 3


def clevr_distance(example: Mapping[str, Any]) -> int:
    """Depth of the closest object, in six steps."""
    return step(CLEVR_DEPTHS, float(np.min(np.asarray(example["objects"]["pixel_coords"])[:, 2])))


def kitti_distance(example: Mapping[str, Any]) -> int:
    """Distance of the closest car, van or truck in metres, in three steps; 3 where there is none."""
    objects = example["objects"]
    vehicles = np.asarray(objects["type"]) < KITTI_VEHICLES
    away = np.asarray(objects["location"]).reshape(-1, 3)[vehicles, 2]
    return step(KITTI_METRES, float(away.min(initial=NO_VEHICLE)))


def dsprites_location(example: Mapping[str, Any]) -> int:
    """The x position, 32 values in 16 classes."""
    return int(example["label_x_position"]) // 2


def dsprites_orientation(example: Mapping[str, Any]) -> int:
    """The orientation, 40 values in 16 classes: floor(v / 2.5)."""
    return int(example["label_orientation"]) * 2 // 5


RULES = (clevr_count, clevr_distance, kitti_distance, dsprites_location, dsprites_orientation)


def rule(name: str) -> Callable[[Mapping[str, Any]], int]:
    """The label of an example, for a name in dataset.tfds.label: one of the rules above, or a field of the example."""
    return {known.__name__: known for known in RULES}.get(name) or (lambda example: int(example[name]))
