"""How hard an embedded task is: four named values, which stand in the task's YAML and belong to what a run is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from karst_bench.errors import UserError


@dataclass(frozen=True)
class Difficulty:
    """contrast: levels (of 255) by which what matters stands out from what lies about it; more is easier.

    clutter: things that tell nothing, the most of them in one image; more is harder. noise: standard deviation of the
    camera's noise in levels, at most; more is harder. fineness: what tells the classes apart is drawn 1 / fineness
    times as large as it could be; more is harder.
    """

    contrast: float
    clutter: float
    noise: float
    fineness: float

    @classmethod
    def of(cls, dataset: Mapping[str, object]) -> Self:
        """The `difficulty` of a dataset node. Raises: UserError for other names, or values outside their range."""
        given, names = dataset.get("difficulty"), [field.name for field in fields(cls)]
        if not isinstance(given, Mapping) or sorted(map(str, given)) != sorted(names):
            found = sorted(map(str, given)) if isinstance(given, Mapping) else given
            raise UserError(
                f"dataset {dataset['name']}: difficulty must give {', '.join(names)}, got {found}; correct its YAML"
            )
        least = {"contrast": 1.0, "clutter": 0.0, "noise": 0.0, "fineness": 0.5}
        most = {"contrast": 120.0, "clutter": 40.0, "noise": 100.0, "fineness": 4.0}
        for name in names:
            value = given[name]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"dataset {dataset['name']}: difficulty.{name}={value!r} is no number")
            if not least[name] <= value <= most[name]:
                raise UserError(
                    f"dataset {dataset['name']}: difficulty.{name}={value} must lie in {least[name]:g}..{most[name]:g}"
                )
        return cls(**{name: float(given[name]) for name in names})

    def values(self) -> dict[str, float]:
        """The four values by name."""
        return asdict(self)
