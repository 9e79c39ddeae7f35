"""Oxford Flowers 102 with the authors' own three splits."""

from karst_bench.data.builders.fgvc.reader import FgvcReader
from karst_bench.data.builders.flowers102 import Flowers102


class Flowers(FgvcReader):
    """Paths: image_NNNNN.jpg."""

    archives = Flowers102.archives

    def labels(self) -> dict[str, dict[str, int]]:
        """{train, val, test: {file: class}}."""
        reader = Flowers102(self.files, "flowers102", self.at(0))
        names = {"train": "train", "val": "validation", "test": "test"}
        return {name: {str(key): label for key, label in reader.labels(split).items()} for name, split in names.items()}

    def path_of(self, name: str) -> str:
        """The file's name."""
        return name.rpartition("/")[2]
