"""Bringing the few-shot sets into place: the published lists, and the images from what a user has."""

import logging
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karst_bench import files
from karst_bench.data.sources.folder import Locator
from karst_bench.data.sources.layouts import find_images, find_lists
from karst_bench.data.sources.lists import read
from karst_bench.data.sources.published import fewshot_source, fewshot_sums
from karst_bench.download import download
from karst_bench.errors import UserError

# set: (folder under paths.data to unpack into, the archives as their sites name them)
ARCHIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "aircraft": ("", ("fgvc-aircraft-2013b.tar.gz",)),
    "food101": ("", ("food-101.tar.gz",)),
    "flowers102": ("flowers-102", ("102flowers.tgz",)),
    "pets": ("oxford-iiit-pet", ("images.tar.gz",)),
    "cars": ("stanford_cars", ("cars_train.tgz", "cars_test.tgz")),
}

log = logging.getLogger(__name__)


def lists_url() -> str:
    """Where the published lists are fetched from: one commit, so that they cannot change."""
    repository, commit, folder = fewshot_source()
    return f"https://raw.githubusercontent.com/{repository.removeprefix('github.com/')}/{commit}/{folder}"


def place_lists(dataset: Mapping[str, Any], root: Path, origin: str | None) -> Path:
    """The published lists of one set under <root>/few-shot/<set>/annotations/; what is there and right is kept.

    origin: a folder or an address that holds <set>/annotations/; None: the published commit. Every file must have its
    known SHA-256. Raises: UserError for a list that is there and differs (it may be the user's own), or cannot be had.
    """
    name = dataset["folder"]
    home: Path = root / "few-shot" / name / "annotations"
    for file, sha256 in fewshot_sums()[name].items():
        target = home / file
        if target.is_file():
            if files.sha256(target) != sha256:
                raise UserError(
                    f"{target} differs from the published list (SHA-256 {sha256[:12]}...). It was left alone: delete it"
                    " to get the published one, or keep it and let your records say 'own split'."
                )
            continue
        download(_address(origin or lists_url(), name, file), target, sha256=sha256)
    repository, commit, folder = fewshot_source()
    note = f"Lists: {repository}, commit {commit}, {folder}/{name}/annotations; MIT licence of that repository.\n"
    files.write(home / "SOURCE.txt", note.encode(), setting="root")
    log.info("%s: %d lists in %s", dataset["name"], len(fewshot_sums()[name]), home)
    return home


def _address(origin: str, name: str, file: str) -> str:
    if "://" in origin:
        return f"{origin.rstrip('/')}/{name}/annotations/{file}"
    return (Path(origin).resolve() / name / "annotations" / file).as_uri()


def missing_images(dataset: Mapping[str, Any], root: Path) -> list[str]:
    """The paths in the set's lists that no accepted layout has. Raises: UserError for missing or bad lists."""
    home = find_lists(dataset, data_root=root)
    locate = Locator(find_images(dataset, data_root=root, lists=home))
    lists = [home / file for file in fewshot_sums()[dataset["folder"]] if (home / file).is_file()]
    paths = dict.fromkeys(row.path for file in lists for row in read(file, dataset["classes"]).rows)
    return [path for path in paths if not locate(path).is_file()]


def unpack(dataset: Mapping[str, Any], root: Path, archives: Path) -> list[str]:
    """Unpack the set's archives where they are found; the names of those that are not.

    A folder is moved into place when its archive was read to the end. Raises: UserError for a bad or unsafe archive.
    """
    below, names = ARCHIVES[dataset["task"]]
    absent = []
    for name in names:
        file = archives / name
        if file.is_file():
            log.info("%s: unpacking %s", dataset["name"], file)
            _unpack_one(file, root / below)
        else:
            absent.append(name)
    return absent


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Files and folders of an archive, and nothing outside of the folder. Raises: tarfile.TarError."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    for member in archive:  # Python 3.11 before 3.11.4, which some distributions still have, knows no filters
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is a link or a device, or lies outside of its folder")
    archive.extractall(folder)


def _unpack_one(file: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    try:
        with files.scratch(target / "unpacked") as unpacked:
            with tarfile.open(file) as archive:
                _extract(archive, unpacked)
            for child in unpacked.iterdir():
                if (target / child.name).exists():
                    raise UserError(
                        f"{target / child.name} is there already, but not all of its images; move it away and start"
                        f" again, and {file} will be unpacked in its place"
                    )
                child.rename(target / child.name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{file}: cannot be unpacked ({error}); fetch the archive again") from error
