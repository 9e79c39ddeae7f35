"""Stanford Dogs: images.tar with Images/<class>/<file>.jpg, lists.tar with train_list.mat and test_list.mat."""

from pathlib import Path

from karst_bench.data.builders.archive import open_member
from karst_bench.data.builders.fgvc.reader import FgvcReader
from karst_bench.data.builders.matlab import read_mat
from karst_bench.data.builders.raw import Archive
from karst_bench.errors import UserError

SITE = "http://vision.stanford.edu/aditya86/ImageNetDogs/"


class Dogs(FgvcReader):
    """Paths: <class>/<file>.jpg. Label: that of the lists minus 1."""

    archives = (
        Archive("images.tar", SITE + "images.tar", 793579520,
                "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58", also=("Images",)),
        Archive("lists.tar", SITE + "lists.tar", 481280,
                "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c", also=("lists",)),
    )  # fmt: skip
    prefix = "Images/"

    def labels(self) -> dict[str, dict[str, int]]:
        """{train, test: {<class>/<file>: class}}."""
        return {split: _listed(self.at(1), f"{split}_list.mat") for split in ("train", "test")}

    def path_of(self, name: str) -> str:
        """Below Images/; in an unpacked folder of that name the path itself."""
        return name if self.at(0).is_dir() else super().path_of(name)


def _listed(path: Path, name: str) -> dict[str, int]:
    data = open_member(path, name)
    files, labels = read_mat(path, "file_list", data).reshape(-1), read_mat(path, "labels", data).reshape(-1)
    if len(files) != len(labels):
        raise UserError(f"{path}: {name} has {len(files)} files and {len(labels)} labels; fetch it again")
    return {str(file.item()): int(label) - 1 for file, label in zip(files, labels, strict=True)}
