"""Pictures of one's own, in the forms they lie in; read without torch, so that a configuration can name their classes.

  DIR/<class>/*                     a folder a class, no split
  DIR/{train,val,test}/<class>/*    the same for each split; val and test may be absent
  FILE.csv                          columns path, label and, if wanted, split
  DIR/{train,val,test}.txt          lists, `path label` a line with labels from 0; names in classes.txt, one a line
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from karst_bench import files
from karst_bench.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
FORMS = "DIR/<class>/*.jpg, DIR/{train,val,test}/<class>/*.jpg, a CSV with the columns path,label, or DIR/train.txt with its peers"
NO_CLASS = ("__MACOSX", "@eaDir", "lost+found")
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")


def set_form(root: Path) -> str:
    """csv | lists | divided | plain: which of the forms lies at `root`. Raises: UserError where none does."""
    if root.is_file():
        return "csv"
    if not root.is_dir():
        raise UserError(f"dataset.root={root}: there is nothing; give a folder or a CSV: {FORMS}")
    if (root / "train.txt").is_file():
        return "lists"
    if (root / "train800.txt").is_file():
        raise UserError(f"dataset.root={root} holds VTAB-1K's lists; copy a file of conf/dataset/vtab for it, or name the lists "
                        "train.txt, val.txt and test.txt")  # fmt: skip
    if split_folders(root):
        return "divided"
    if class_folders(root):
        return "plain"
    raise UserError(f"dataset.root={root}: no folder in it is a class; the forms are {FORMS}")


def split_folders(root: Path) -> dict[str, Path]:
    """{split: its folder} where `root` is divided by split; empty where it has no train folder with classes in it.

    Raises: UserError where a split has two folders.
    """
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        here = [path for path in _folders(root) if path.name.lower() in names]
        if len(here) > 1:
            raise UserError(f"dataset.root={root}: {' and '.join(path.name for path in here)} are both {split}; keep one")
        if here:
            found[split] = here[0]
    return found if "train" in found and class_folders(found["train"]) else {}


def class_folders(folder: Path) -> list[Path]:
    """The folders of the classes, in the order of their names, which is that of the labels."""
    return list(_folders(folder))


def _folders(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in NO_CLASS:
            yield path


def own_class_names(root: Path) -> tuple[str, ...]:
    """What the classes of the set at `root` are called, in the order of their labels. Raises: UserError."""
    form = set_form(root)
    if form == "csv":
        return ordered_names(label for _, label, _ in read_csv(root))
    if form == "lists":
        return _listed_names(root)
    names = tuple(path.name for path in class_folders(split_folders(root)["train"] if form == "divided" else root))
    if odd := [name for name in names if files.utf8(name) != name]:
        raise UserError(f"{root}: the folder {odd[0]!r} names a class, and its bytes are no UTF-8, so that no record "
                        "could hold it; rename it")  # fmt: skip
    return names


def ordered_names(labels: Iterator[str]) -> tuple[str, ...]:
    """Every label once: in the order of their values where all are whole numbers, else of their letters."""
    found = set(labels)
    numbers = all(re.fullmatch(r"[+-]?[0-9]{1,18}", label) for label in found)
    return tuple(sorted(found, key=(lambda label: (int(label), label)) if numbers else None))


def read_csv(file: Path) -> list[tuple[str, str, str]]:
    """(path, label, split or "") of each row. Raises: UserError naming the line: no such column, an empty field, another split."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.reader(text))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"dataset.root={file}: no CSV in UTF-8 ({error})") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"path", "label"} <= set(header):
        raise UserError(f"{file}: its first line is {','.join(header)[:80]!r}; it has to name the columns: path,label or "
                        "path,label,split")  # fmt: skip
    at: dict[str, int] = {name: header.index(name) for name in ("path", "label", "split") if name in header}
    return [_csv_row(file, number, row, at) for number, row in enumerate(rows[1:], start=2) if any(map(str.strip, row))]


def _csv_row(file: Path, number: int, row: list[str], at: dict[str, int]) -> tuple[str, str, str]:
    fields = {name: row[index].strip() if index < len(row) else "" for name, index in at.items()}
    for name in ("path", "label"):
        if not fields[name]:
            raise UserError(f"{file}: line {number} has no {name}; give each row one")
    said = fields.get("split", "").lower()
    split = next((split for split, names in SPLIT_NAMES.items() if said in names), "")
    if "split" in at and not split:
        raise UserError(f"{file}: line {number} has the split {said!r}; use train, val or test")
    return fields["path"], fields["label"], split


def _listed_names(root: Path) -> tuple[str, ...]:
    named = root / "classes.txt"
    try:
        if named.is_file():
            return tuple(line.strip() for line in named.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        last = [line.split()[-1] for line in (root / "train.txt").read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{root}: cannot read its lists ({error})") from error
    labels = [int(label) for label in last if label.isdecimal()]
    return tuple(map(str, range(max(labels, default=-1) + 1)))


def set_name(root: Path) -> str:
    """`own/<name of the folder or CSV>`, in plain letters."""
    return f"own/{_ODD.sub('_', root.resolve().stem if root.is_file() else root.resolve().name).strip('_.')[:60] or 'photos'}"
