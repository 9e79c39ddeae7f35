"""A file's hash says what it holds only while equal content gives equal bytes."""

import torch
from safetensors.torch import load, safe_open, save

from karst_bench.tensors_file import to_safetensors

TENSORS = {"a": torch.arange(6, dtype=torch.float32).view(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}
HEADER = {f"key{number}": f'"{number}" \\ ü\n' for number in range(20)}


def test_equal_content_gives_equal_bytes() -> None:
    assert len({save(TENSORS, metadata=HEADER) for _ in range(20)}) > 1, "the library sorts by itself: this file can go"
    files = {to_safetensors(TENSORS, dict(sorted(HEADER.items(), reverse=back))) for back in (False, True) for _ in range(20)}
    assert len(files) == 1


def test_the_library_reads_what_was_written(tmp_path) -> None:
    image = to_safetensors(TENSORS, HEADER)
    assert {name: tensor.tolist() for name, tensor in load(image).items()} == {n: t.tolist() for n, t in TENSORS.items()}
    (tmp_path / "file").write_bytes(image)
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert file.metadata() == HEADER


def test_the_tensors_start_where_the_format_wants_them() -> None:
    for size in range(9):
        image = to_safetensors(TENSORS, {"key": "x" * size})
        assert int.from_bytes(image[:8], "little") % 8 == 0
