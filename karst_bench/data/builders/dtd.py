"""DTD: one tar with images/<texture>/<file>.jpg and the lists labels/{train,val,test}1.txt of the first partition."""

from collections.abc import Iterator
from functools import cached_property

from karst_bench.data.builders.archive import members
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, by_member, position
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

LISTS = {"train1.txt": "train", "val1.txt": "validation", "test1.txt": "test"}


class Dtd(RawReader):
    """Keys: the lists' lines, <texture>/<file>.jpg. Label: the texture, alphabetical."""

    archives = (
        Archive(
            "dtd-r1.0.1.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            625239812,
            "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
            also=("dtd",),
        ),
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{line: texture}."""
        order = position({line.partition("/")[0] for lines in self._lists.values() for line in lines})
        return {line: order[line.partition("/")[0]] for line in self._lists[split]}

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        names = {str(key): (split, key) for split, keys in wanted.items() for key in keys}
        yield from by_member(self.at(0), names, "images/")

    @cached_property
    def _lists(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for member in members(self.at(0)):
            folder, _, name = member.name.rpartition("/")
            if name in LISTS and folder.endswith("labels"):
                found[LISTS[name]] = member.read().decode("utf-8", "replace").split()
                if len(found) == len(LISTS):
                    return found
        raise UserError(
            f"{self.at(0)}: holds no labels/{', labels/'.join(LISTS)}; is it the archive that its name says?"
        )
