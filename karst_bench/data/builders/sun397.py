"""SUN397: one tar of SUN397/<letter>/<category>/<file>.jpg; the splits are those of tensorflow-datasets' own lists."""

import io
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from PIL import Image

from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, by_member, position, to_rgb
from karst_bench.data.builders.resample import shrink, through_jpeg
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

LISTS = {"train": "sun397_tfds_tr.txt", "validation": "sun397_tfds_va.txt", "test": "sun397_tfds_te.txt"}
UNREADABLE = {"/c/church/outdoor/sun_bhenjvsvrtumjuri.jpg", "/t/track/outdoor/sun_aophkoiosslinihb.jpg"}
PIXELS = 120_000


def lists_folder() -> Traversable:
    """Where tensorflow-datasets ships the lists of its partition."""
    return resources.files("tensorflow_datasets") / "image_classification"


class Sun397(RawReader):
    """Keys: /<letter>/<category...>/<file>.jpg. Label: the folder, alphabetical.

    Pictures of more than 120,000 pixels are shrunk to that and pass through JPEG of quality 95, as in the set that
    published numbers stand on.
    """

    archives = (
        Archive("SUN397.tar.gz", "", 39077296924, "f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
                also=("SUN397.tar", "SUN397")),
    )  # fmt: skip
    instructions = (
        "the authors' address (vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz, 39.1 GB) answers 404 since 2025;"
        " SUN397.tar.gz or an unpacked SUN397/ from elsewhere is checked against the known hash"
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{path: category}."""
        return self.listed(split)

    @staticmethod
    def listed(split: str) -> dict[Key, int]:
        """{path: category} from the lists alone."""
        lists = _lists()
        order = position({_category(line) for lines in lists.values() for line in lines})
        return {line: order[_category(line)] for line in lists[split] if line not in UNREADABLE}

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        names = {str(key).removeprefix("/"): (split, key) for split, keys in wanted.items() for key in keys}
        yield from by_member(self.at(0), names, "" if self.at(0).is_dir() else "SUN397/")

    def decode(self, stored: Raw) -> Image.Image:
        """At most 120,000 pixels, RGB, through JPEG."""
        assert isinstance(stored, bytes)
        with Image.open(io.BytesIO(stored)) as image:
            return through_jpeg(shrink(to_rgb(image).convert("RGB"), PIXELS), 95)


def _lists() -> dict[str, list[str]]:
    try:
        return {split: (lists_folder() / file).read_text("utf-8").split() for split, file in LISTS.items()}
    except (OSError, ModuleNotFoundError) as error:
        raise UserError(
            f"sun397: the lists of tensorflow-datasets cannot be read ({error}); install it anew"
        ) from error


def _category(path: str) -> str:
    return path.rpartition("/")[0]
