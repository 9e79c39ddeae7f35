"""CUB-200-2011 and NABirds: images.txt, image_class_labels.txt and train_test_split.txt beside images/."""

from karst_bench.data.builders.archive import members
from karst_bench.data.builders.fgvc.reader import FgvcReader, numbered, table
from karst_bench.data.builders.raw import Archive
from karst_bench.errors import UserError

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")


class Birds(FgvcReader):
    """A set with an id for each picture, and its path, class and part (1: train) in three lists."""

    prefix = "images/"

    def labels(self) -> dict[str, dict[str, int]]:
        """{train, test: {<folder>/<file>: class}}."""
        texts: dict[str, bytes] = {}
        for member in members(self.at(0)):
            name = member.name.rpartition("/")[2]
            if name in LISTS and name not in texts:
                texts[name] = member.read()
        absent = [name for name in LISTS if name not in texts]
        if absent:
            raise UserError(f"{self.at(0)}: holds no {', '.join(absent)}; is it the archive that its name says?")
        paths, classes, parts = (table(texts[name], 2, self.at(0), name) for name in LISTS)
        if not paths.keys() == classes.keys() == parts.keys():
            raise UserError(f"{self.at(0)}: its lists name different pictures; fetch it again")
        order = numbered(set(classes.values()))
        found: dict[str, dict[str, int]] = {"train": {}, "test": {}}
        for key, path in paths.items():
            found["train" if parts[key] == "1" else "test"][path] = order[classes[key]]
        return found


class Cub(Birds):
    """CUB-200-2011."""

    archives = (
        Archive(
            "CUB_200_2011.tgz",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            1150585339,
            "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            also=("CUB_200_2011",),
        ),
    )


class NaBirds(Birds):
    """NABirds: 555 classes whose numbers have gaps."""

    archives = (Archive("nabirds.tar.gz", also=("nabirds.tgz", "nabirds")),)
    instructions = "accept the terms at https://dl.allaboutbirds.org/nabirds and download nabirds.tar.gz (about 10 GB)"
