"""Oxford-IIIT Pet: a tar of images/<name>.jpg and one of annotations/{trainval,test}.txt."""

from collections.abc import Iterator

from karst_bench.data.builders.archive import open_member
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, by_member
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

SITE = "https://thor.robots.ox.ac.uk/~vgg/data/pets/"
LISTS = {"train": "trainval.txt", "test": "test.txt"}


class Pets(RawReader):
    """Keys: <name>.jpg. Label: the CLASS-ID of the lists minus 1."""

    archives = (
        Archive("images.tar.gz", SITE + "images.tar.gz", 791918971,
                "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d", also=("images",)),
        Archive("annotations.tar.gz", SITE + "annotations.tar.gz", 19173078,
                "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91", also=("annotations",)),
    )  # fmt: skip

    def labels(self, split: str) -> dict[Key, int]:
        """{file: breed}."""
        found: dict[Key, int] = {}
        for line in open_member(self.at(1), LISTS[split]).decode("utf-8", "replace").splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 4 or not words[1].isdecimal():
                raise UserError(
                    f"{self.at(1)}: a line of {LISTS[split]} is not '<name> <class> <species> <breed>': {line[:80]!r}"
                )
            found[f"{words[0]}.jpg"] = int(words[1]) - 1
        return found

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored (a dozen of them are GIF or PNG in truth; Pillow reads them by content)."""
        names = {str(key): (split, key) for split, keys in wanted.items() for key in keys}
        yield from by_member(self.at(0), names, "" if self.at(0).is_dir() else "images/")
