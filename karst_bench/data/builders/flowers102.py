"""Oxford Flowers 102: a tar of jpg/image_NNNNN.jpg, and the class and split of each picture in two MATLAB files."""

from collections.abc import Iterator

from karst_bench.data.builders.matlab import read_mat
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, by_member
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

SITE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
IDS = {"train": "trnid", "validation": "valid", "test": "tstid"}


class Flowers102(RawReader):
    """Keys: image_NNNNN.jpg. Label: the class of imagelabels.mat minus 1."""

    archives = (
        Archive("102flowers.tgz", SITE + "102flowers.tgz", 344862509,
                "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246", also=("jpg",)),
        Archive("imagelabels.mat", SITE + "imagelabels.mat", 502,
                "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d"),
        Archive("setid.mat", SITE + "setid.mat", 14989,
                "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd"),
    )  # fmt: skip

    def labels(self, split: str) -> dict[Key, int]:
        """{file: class}."""
        classes = read_mat(self.at(1), "labels").reshape(-1)
        ids = read_mat(self.at(2), IDS[split]).reshape(-1)
        if ids.size == 0 or ids.min() < 1 or ids.max() > len(classes):
            raise UserError(f"{self.at(2)}: {IDS[split]} names pictures beyond the {len(classes)} of {self.at(1).name}")
        return {f"image_{number:05d}.jpg": int(classes[number - 1]) - 1 for number in ids.tolist()}

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        names = {str(key): (split, key) for split, keys in wanted.items() for key in keys}
        yield from by_member(self.at(0), names, "" if self.at(0).is_dir() else "jpg/")
