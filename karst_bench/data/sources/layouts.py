"""Where the images and lists of a set may lie under paths.data: the layouts in use, tried one after the other."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from karst_bench.errors import UserError

VTAB_SPLITS = ("train800", "val200", "train800val200", "test")
VTAB_ROOTS = ("vtab-1k", "", "vtab-1k/vtab-1k", "vtab1k", "vtab")
FEWSHOT_ROOTS = ("few-shot", "", "few-shot_split", "FGFS/few-shot_split", "FGFS")
IMAGE_ROOTS = ("", "few-shot", "FGFS", "images")


def find_task(dataset: Mapping[str, Any], *, data_root: Path) -> Path:
    """The folder that holds the lists of a set (VTAB: <task>/; few-shot: <set>/annotations/).

    dataset: its configuration. Raises: UserError with what is missing, every folder looked at, the command that prepares
    it, and the embedded alternative.
    """
    few_shot = dataset["suite"] == "fewshot"
    candidates = list(_fewshot_folders(dataset, data_root) if few_shot else _vtab_folders(dataset, data_root))
    holds_lists = _holds_fewshot_lists if few_shot else _holds_vtab_lists
    found = _first(candidates, holds_lists)
    if found is not None:
        return found
    present = _first(candidates, Path.is_dir)
    script = "prepare_fewshot" if few_shot else "prepare_vtab"
    lists = "test_meta.list and its peers" if few_shot else "train800.txt, val200.txt, train800val200.txt, test.txt"
    state = f"{present} is there, but without its lists" if present else f"there is no folder of lists ({lists}) for it"
    raise UserError(
        f"The data of dataset={dataset['name']} are missing under paths.data={data_root}: {state}. Looked for"
        f" {', '.join(str(path) for path in candidates)}."
        f" Prepare them with `python scripts/{script}.py root={data_root} task={dataset['task']}`, point paths.data"
        " elsewhere, or try the suite without any download: dataset=mini/digits."
    )


def find_images(dataset: Mapping[str, Any], *, data_root: Path, lists: Path) -> list[Path]:
    """The folders, best first, that a path of a few-shot list may be joined to; only those that exist."""
    home = lists.parent if lists.name == "annotations" else lists
    found = [data_root / root / folder for root in IMAGE_ROOTS for folder in dataset["image_dirs"]]
    found += [home / "images", home]
    return [path for path in dict.fromkeys(found) if path.is_dir()]


def _names(dataset: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([dataset["folder"], *dataset.get("aliases", ()), dataset["task"]]))


def _vtab_folders(dataset: Mapping[str, Any], root: Path) -> Iterator[Path]:
    for parent in VTAB_ROOTS:
        for name in _names(dataset):
            yield root / parent / name


def _fewshot_folders(dataset: Mapping[str, Any], root: Path) -> Iterator[Path]:
    for parent in FEWSHOT_ROOTS:
        for name in _names(dataset):
            yield root / parent / name / "annotations"
    for parent in FEWSHOT_ROOTS:
        for name in _names(dataset):
            yield root / parent / name


def _holds_vtab_lists(path: Path) -> bool:
    return any((path / f"{split}.txt").is_file() for split in VTAB_SPLITS)


def _holds_fewshot_lists(path: Path) -> bool:
    return (path / "test_meta.list").is_file() or (path / "val_meta.list").is_file()


def _first(paths: list[Path], test: Callable[[Path], bool]) -> Path | None:
    return next((path for path in paths if test(path)), None)
