"""Where the images of a split come from, one at a time, before they are cached."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from karst_bench.data.decode import BadImageError, read_image
from karst_bench.data.resize import Resize
from karst_bench.data.sources.lists import ListEntry
from karst_bench.data.task import ImageBatch

AHEAD = 4  # images in flight per worker: enough to keep all busy, few enough to fit in memory


class Source:
    """Labelled images of any size.

    Attributes: folder (of the set, in the cache), name (of the split), labels (n,) int64.
    """

    folder: str
    name: str
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> torch.Tensor:
        """Image `index`: uint8 (3, h, w). Raises: BadImageError."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash of all that decides which images these are; changes when one of them does."""
        raise NotImplementedError


class FileSource(Source):
    """The rows of a list as image files. locate(path of a row) gives the file; list_file: the list, or the folder there was
    instead of one; white: the level of deep pictures that becomes 255.

    Raises: BadImageError on construction if files are missing: how many, the first, its line and the remedy.
    """

    def __init__(
        self, folder: str, name: str, rows: Sequence[ListEntry], locate: Callable[[str], Path], list_file: Path,
        white: float | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.name = name
        self.rows = rows
        self.list_file = list_file
        self.white = white
        self.files = [locate(row.path) for row in rows]
        self.labels = torch.tensor([row.label for row in rows], dtype=torch.int64)
        self._sizes = self._stat()

    def _stat(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        missing: list[int] = []
        for number, file in enumerate(self.files):
            try:
                state = os.stat(file)  # noqa: PTH116 (a third of the cost of Path.stat, and this is what opening costs)
            except (OSError, ValueError):
                missing.append(number)
            else:
                found.append((state.st_size, state.st_mtime_ns))
        if missing:
            raise BadImageError(
                f"{self.files[missing[0]]}: the file is missing{self._line(missing[0])};"
                f" {len(missing)} of the {len(self.files)} files of this list are. {self._remedy('them')}"
            )
        return found

    def load(self, index: int) -> torch.Tensor:
        """Image `index`: uint8 (3, h, w). Raises: BadImageError naming the file and its line in the list."""
        try:
            return read_image(self.files[index], self.white)
        except BadImageError as error:
            raise BadImageError(f"{error}{self._line(index)}. {self._remedy('it')}") from error

    def _line(self, index: int) -> str:
        return "" if self.list_file.is_dir() else f" (line {self.rows[index].line} of {self.list_file})"

    def _remedy(self, what: str) -> str:
        if self.list_file.is_dir() or self.list_file.suffix != ".txt":  # one's own
            how = f"root={self.list_file} tasks=folder"
            return f"Mend {what} or take {what} out; `karst-bench data audit {how}` lists all that is wrong."
        return f"Restore {what} from where you got the set; `karst-bench data audit DIR` lists all that is wrong."

    def fingerprint(self) -> str:
        """Over the paths, sizes and modification times, so that a file replaced by another is noticed."""
        parts = [f"{row.path}|{size}|{time}" for row, (size, time) in zip(self.rows, self._sizes, strict=True)]
        parts += [f"white={self.white}"] if self.white is not None else []
        return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def workers() -> int:
    """Decoding threads: both decoders release the interpreter's lock."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def in_order(source: Source, indices: Sequence[int], resize: Resize | None) -> Iterator[tuple[torch.Tensor, float]]:
    """(image after `resize`, its width over its height) for each index, decoded in parallel, yielded in order.

    Raises: BadImageError of the first image that cannot be read.
    """

    def one(index: int) -> tuple[torch.Tensor, float]:
        pixels = source.load(index)
        aspect = pixels.shape[2] / pixels.shape[1]
        return (pixels if resize is None else resize(pixels)), aspect

    step = AHEAD * workers()
    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(indices), step):
            yield from pool.map(one, indices[start : start + step])


def decode_all(source: Source, resize: Resize) -> ImageBatch:
    """All images of a source in memory, squashed to (side, side). Raises: BadImageError."""
    everything = ImageBatch(
        torch.empty((len(source), 3, resize.side, resize.side), dtype=torch.uint8), torch.empty(len(source))
    )
    for index, (image, aspect) in enumerate(in_order(source, range(len(source)), resize)):
        everything.images[index] = image
        everything.aspects[index] = aspect
    return everything
