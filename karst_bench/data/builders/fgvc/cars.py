"""Stanford Cars: cars_train.tgz, cars_test.tgz, the devkit's training labels and the test labels of their own file."""

from collections.abc import Iterator
from pathlib import Path

from karst_bench.data.builders.archive import members, open_member
from karst_bench.data.builders.fgvc.reader import FgvcReader
from karst_bench.data.builders.matlab import read_mat
from karst_bench.data.builders.raw import Archive
from karst_bench.errors import UserError

FIELDS = ("fname", "class")


class Cars(FgvcReader):
    """Paths: cars_train/NNNNN.jpg and cars_test/NNNNN.jpg. Label: the devkit's class minus 1."""

    archives = (
        Archive("cars_train.tgz", "", 979269282, "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
                also=("cars_train",)),
        Archive("cars_test.tgz", "", 977350468, "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
                also=("cars_test",)),
        Archive("car_devkit.tgz", "", 330960, "b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
                also=("devkit",)),
        Archive("cars_test_annos_withlabels.mat", "", 185758,
                "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05"),
    )  # fmt: skip
    instructions = (
        "the authors' site (ai.stanford.edu/~jkrause/cars) is gone; copies that kept the original files"
        " (cars_train/00001.jpg, ...) are checked against their known hashes"
    )

    def labels(self) -> dict[str, dict[str, int]]:
        """{train, test: {cars_<split>/<file>: class}}."""
        return {
            "train": _annotated(self.at(2), "train", open_member(self.at(2), "cars_train_annos.mat")),
            "test": _annotated(self.at(3), "test", None),
        }

    def pictures(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        """(path, stored bytes) of the wanted pictures; an unpacked cars_train/ lacks its own name in its paths."""
        for number, folder in enumerate(("cars_train", "cars_test")):
            for member in members(self.at(number)):
                path = f"{folder}/{member.name.rpartition('/')[2]}"
                if path in wanted:
                    yield path, member.read()


def _annotated(path: Path, split: str, data: bytes | None) -> dict[str, int]:
    rows = read_mat(path, "annotations", data).reshape(-1)
    if rows.dtype.names is None or not set(FIELDS) <= set(rows.dtype.names):
        raise UserError(f"{path}: its annotations have no fields {' and '.join(FIELDS)}; fetch it again")
    return {f"cars_{split}/{row['fname'].item()}": int(row["class"].item()) - 1 for row in rows}
