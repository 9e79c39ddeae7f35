"""Where the images and lists of a set may lie under paths.data: the layouts in use, tried one after the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karst_bench.errors import UserError
from karst_bench.own_sets import set_form

VTAB_SPLITS = ("train800", "val200", "train800val200", "test")
VTAB_ROOTS = ("vtab-1k", "", "vtab-1k/vtab-1k", "vtab1k", "vtab")
FEWSHOT_ROOTS = ("few-shot", "", "few-shot_split", "FGFS/few-shot_split", "FGFS")
FGVC_ROOTS = ("fgvc", "FGVC", "")
FGVC_SPLITS = ("train", "val", "test")
IMAGE_ROOTS = ("", "few-shot", "FGFS", "images")


def find_lists(dataset: Mapping[str, Any], *, data_root: Path) -> Path:
    """The folder that holds the lists of a set (VTAB: <task>/; few-shot: <set>/annotations/).

    dataset: its configuration. Raises: UserError with what is missing, every folder looked at, the command that prepares
    it, and the embedded alternative.
    """
    kind = _KINDS[dataset["suite"]]
    candidates = list(kind.folders(dataset, data_root))
    found = _first(candidates, kind.holds_lists)
    if found is not None:
        return found
    present = _first(candidates, Path.is_dir)
    state = f"there is no folder of lists ({kind.lists}) for it" if present is None else _without_lists(present, kind.lists)
    raise UserError(
        f"The data of dataset={dataset['name']} are missing under paths.data={data_root}: {state}. Looked for"
        f" {', '.join(str(path) for path in candidates)}."
        f" Prepare them with `{kind.command.format(root=data_root, task=dataset['task'], name=dataset['name'])}`, point"
        " paths.data elsewhere, or try the suite without any download: dataset=mini/digits."
    )


def _without_lists(folder: Path, lists: str) -> str:
    """What to say of a set's folder that has no lists in it: where it has class folders, how these are read."""
    said, hint = f"{folder} is there, but without its lists ({lists})", own_set_hint(folder)
    return f"{said}; {hint}" if hint else said


def own_set_hint(folder: Path) -> str:
    """How class folders are read as they are; empty where a folder has none."""
    try:
        form = set_form(folder)
    except (UserError, OSError):
        return ""
    how = {"divided": "folders of classes in train (and val, test)", "plain": "folders, as classes have them"}.get(form, form)
    return (f"it has {how}: `karst-bench run dataset=folder dataset.root={folder}` reads them as they are, and "
            f"`karst-bench data lists {folder}` writes lists of them")  # fmt: skip


def find_images(dataset: Mapping[str, Any], *, data_root: Path, lists: Path) -> list[Path]:
    """The folders, best first, that a path of a few-shot list may be joined to; only those that exist."""
    home = lists.parent if lists.name == "annotations" else lists
    found = [data_root / root / folder for root in IMAGE_ROOTS for folder in dataset["image_dirs"]]
    found += [home / "images", home]
    return [path for path in dict.fromkeys(found) if path.is_dir()]


def fewshot_files(dataset: Mapping[str, Any], home: Path) -> dict[str, Path]:
    """The three lists that dataset.shots and dataset.split_seed choose. Raises: UserError for values without a list."""
    shots, seed = dataset["shots"], dataset["split_seed"]
    if shots not in (1, 2, 4, 8, 16) or seed not in (0, 1, 2):
        raise UserError(
            f"dataset={dataset['name']}: there are lists for dataset.shots=1,2,4,8,16 and dataset.split_seed=0,1,2,"
            f" not for shots={shots}, split_seed={seed}"
        )
    train = f"train_meta.list.num_shot_{shots}.seed_{seed}"
    return {"train": home / train, "val": home / "val_meta.list", "test": home / "test_meta.list"}


def _names(dataset: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([dataset["folder"], *dataset.get("aliases", ()), dataset["task"]]))


def _vtab_folders(dataset: Mapping[str, Any], root: Path) -> Iterator[Path]:
    for parent in VTAB_ROOTS:
        for name in _names(dataset):
            yield root / parent / name


def _fgvc_folders(dataset: Mapping[str, Any], root: Path) -> Iterator[Path]:
    for parent in FGVC_ROOTS:
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


def _holds_fgvc_lists(path: Path) -> bool:
    return all((path / f"{split}.txt").is_file() for split in FGVC_SPLITS)


def _first(paths: list[Path], test: Callable[[Path], bool]) -> Path | None:
    return next((path for path in paths if test(path)), None)


@dataclass(frozen=True)
class _Kind:
    """How the sets of a suite lie on disk: where to look, what is then there, and the command that prepares them."""

    folders: Callable[[Mapping[str, Any], Path], Iterator[Path]]
    holds_lists: Callable[[Path], bool]
    lists: str
    command: str


_KINDS = {
    "vtab": _Kind(
        _vtab_folders,
        _holds_vtab_lists,
        "train800.txt, val200.txt, train800val200.txt, test.txt",
        "karst-bench data prepare tasks={name} root={root}",
    ),
    "fewshot": _Kind(
        _fewshot_folders,
        _holds_fewshot_lists,
        "test_meta.list and its peers",
        "karst-bench data fewshot tasks={name} root={root}",
    ),
    "fgvc": _Kind(
        _fgvc_folders,
        _holds_fgvc_lists,
        "train.txt, val.txt, test.txt",
        "karst-bench data prepare tasks={name} root={root}",
    ),
}
