"""List files: what is tolerated, what is refused, and the published few-shot lists themselves."""

import os
from collections import Counter
from pathlib import Path

import pytest
from miniatures import FEWSHOT, dataset_of

from karst_bench.data.sources.lists import lists_sha256, read, scan, text_sha256, unique
from karst_bench.data.sources.published import fewshot_sums
from karst_bench.errors import UserError

LISTS = os.environ.get("KARST_BENCH_FEWSHOT_LISTS")


def write(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "list.txt"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    "data",
    [
        b"a.jpg 0\nb.jpg 1\n",
        b"\xef\xbb\xbfa.jpg 0\r\nb.jpg 1\r\n",
        b"\n\na.jpg 0\n\n  b.jpg\t1  \n\n",
        b"a.jpg 0\nb.jpg 1",
        b"a.jpg 0\nb.jpg +1\n",
        b"./a.jpg 0\r\n.\\b.jpg 1\r\n",
        b".//a.jpg 0\n././b.jpg 1\n",
    ],
)
def test_tolerated_forms_read_the_same(tmp_path: Path, data: bytes) -> None:
    rows = read(write(tmp_path, data), 2).rows
    assert [(row.path, row.label) for row in rows] == [("a.jpg", 0), ("b.jpg", 1)]


def test_the_label_follows_the_last_space(tmp_path: Path) -> None:
    (row,) = read(write(tmp_path, b"my images/a 1.jpg 3\n"), 4).rows
    assert (row.path, row.label) == ("my images/a 1.jpg", 3)


@pytest.mark.parametrize(
    ("data", "kind", "line"),
    [
        (b"a.jpg 0\nb.jpg 2\n", "range", 2),
        (b"a.jpg -1\n", "range", 1),
        (b"a.jpg 1.0\n", "label", 1),
        (b"a.jpg \xd9\xa3\n", "label", 1),
        (b"a.jpg " + b"9" * 5000 + b"\n", "label", 1),
        (b"a.jpg\n", "format", 1),
        (b"a\x00.jpg 0\n", "format", 1),
        (b"/etc/a.jpg 0\n", "path", 1),
        (b"x/../../a.jpg 0\n", "path", 1),
        (b"..\\a.jpg 0\n", "path", 1),
        (b"C:\\a.jpg 0\n", "path", 1),
        (b"a.jpg 0\na.jpg 1\n", "contradiction", 2),
        (b"\xff\xfea\x00", "text", 1),
        (b"", "text", 1),
        (b"\n \n", "text", 1),
    ],
)
def test_refused_lines_are_named(tmp_path: Path, data: bytes, kind: str, line: int) -> None:
    file = write(tmp_path, data)
    (problem,) = scan(file, 2).problems
    assert (problem.kind, problem.line) == (kind, line)
    with pytest.raises(UserError, match=f"line {line}") as caught:
        read(file, 2)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("spelt", ["x/a.jpg", "./x/a.jpg", "x\\a.jpg", ".\\x\\a.jpg", "x//a.jpg", "x/./a.jpg"])
def test_every_spelling_of_a_path_is_one_path(tmp_path: Path, spelt: str) -> None:
    (row,) = read(write(tmp_path, f"{spelt} 0\r\n".encode()), 2).rows
    assert row.path == "x/a.jpg"
    plain = read(write(tmp_path, b"x/a.jpg 0\n"), 2).rows
    assert text_sha256([row]) == text_sha256(plain)
    (problem,) = scan(write(tmp_path, f"x/a.jpg 0\n{spelt} 1\n".encode()), 2).problems
    assert problem.kind == "contradiction"


def test_labels_that_start_at_1_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels are 1\.\.3: they start at 1"):
        read(write(tmp_path, b"a.jpg 1\nb.jpg 2\nc.jpg 3\n"), 3)
    with pytest.raises(UserError) as caught:
        read(write(tmp_path, b"a.jpg 1\nb.jpg 2\nc.jpg 4\n"), 3)
    assert "start at 1" not in str(caught.value)


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path, b"".join(b"a%d.jpg 9\n" % n for n in range(10)))
    with pytest.raises(UserError, match="and 7 more"):
        read(file, 2)


def test_a_missing_list_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        read(tmp_path / "nowhere.txt", 2)


def test_hashes_ignore_how_the_file_was_written(tmp_path: Path) -> None:
    plain = read(write(tmp_path, b"a.jpg 0\nb.jpg 1\n"), 2).rows
    odd = read(write(tmp_path, b"\xef\xbb\xbfa.jpg 0\r\n\r\nb.jpg 1"), 2).rows
    other = read(write(tmp_path, b"a.jpg 0\nb.jpg 0\n"), 2).rows
    assert text_sha256(plain) == text_sha256(odd) != text_sha256(other)
    assert lists_sha256({"test": plain}) != lists_sha256({"val": plain})


def test_sums_of_86_lists_are_kept() -> None:
    assert sum(len(files) for files in fewshot_sums().values()) == 86


@pytest.mark.skipif(LISTS is None, reason="KARST_BENCH_FEWSHOT_LISTS does not point to the published lists")
@pytest.mark.parametrize("name", FEWSHOT)
def test_the_published_lists(name: str) -> None:
    """Every list reads, has K rows a class, its published hash, and shares nothing with val and test."""
    dataset = dataset_of(f"fewshot/{name}")
    home = Path(LISTS or "") / dataset["folder"] / "annotations"
    sums = fewshot_sums()[dataset["folder"]]
    lists = {file: read(home / file, dataset["classes"]) for file in sums}
    assert all(text_sha256(found.rows) == sums[file] for file, found in lists.items())
    val, test = lists["val_meta.list"].rows, lists["test_meta.list"].rows
    assert (len(val), len(test)) == (dataset["sizes"]["val"], dataset["sizes"]["test"])
    held_out = {row.path for row in (*val, *test)}
    assert len(held_out) == len(val) + len(test)
    for file, found in lists.items():
        if "num_shot" not in file:
            continue
        shots = int(file.split("num_shot_")[1].split(".")[0])
        rows = unique(found.rows)
        repeated = name == "pets" and shots == 1
        assert len(found.rows) == len(rows) * (2 if repeated else 1)
        assert Counter(row.label for row in rows) == dict.fromkeys(range(dataset["classes"]), shots)
        assert not held_out & {row.path for row in rows}
