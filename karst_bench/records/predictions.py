"""What a run said of every image of the split that it reports: top-1, its probability and the label, six bytes an image.

Its file lies beside the records (predictions/<suite>/<id>.safetensors) and its SHA-256 in the record, so that anyone can
score the run again without running it (run/check.py). Read and written without torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from karst_bench.errors import UserError
from karst_bench.records.strict_json import RecordError, need
from karst_bench.tensors_file import arrays_to_safetensors, tensors_header

FORMAT = "karst_bench-predictions-1"
REPORTED = {"test": "test", "val200": "val", "val": "val"}  # split -> how metrics call it
ARRAYS = {"top1": ("U16", np.uint16), "probability": ("F16", np.float16), "label": ("U16", np.uint16)}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Predictions:
    """The run's id, the split, the hash over its lists; for each image, in the order of the list: top1 and label (uint16),
    probability (float16) that the model gave top1."""

    id: str
    split: str
    list_sha256: str
    top1: Array
    probability: Array
    label: Array

    def __len__(self) -> int:
        return len(self.label)

    @property
    def top1_pct(self) -> float:
        """Accuracy in per cent, computed as a run computes it."""
        return 100.0 * int((self.top1 == self.label).sum()) / len(self.label)

    def to_bytes(self) -> bytes:
        """The file. Raises: ValueError where a class or label has no room in 16 bits."""
        for values in (self.top1, self.label):
            if len(values) and not 0 <= values.min() <= values.max() < 2**16:
                raise ValueError(f"classes {values.min()} to {values.max()} do not fit 16 bits")
        arrays = {name: np.ascontiguousarray(getattr(self, name), dtype=kind) for name, (_, kind) in ARRAYS.items()}
        about = {"format": FORMAT, "id": self.id, "split": self.split, "list_sha256": self.list_sha256}
        return arrays_to_safetensors(arrays, about)


def read_predictions(path: Path) -> Predictions:
    """The predictions in a file. Raises: RecordError, starting with its name, where it is none."""
    try:
        header = tensors_header(path)
        need(header.texts.get("format") == FORMAT, f"format {header.texts.get('format', 'none')[:40]!r}, expected {FORMAT!r}")
        need(header.tensors.keys() == ARRAYS.keys(), f"it holds {', '.join(header.tensors)[:80]} instead of {', '.join(ARRAYS)}")
        n = header.tensors["label"].shape
        need(len(n) == 1 and n[0] > 0, f"labels of shape {n}")
        for name, (dtype, _) in ARRAYS.items():
            entry = header.tensors[name]
            need((entry.dtype, entry.shape) == (dtype, n), f"{name} is {entry.dtype} {entry.shape}, expected {dtype} {n}")
        image = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path.name}: cannot be read ({error.strerror})") from None
    except UserError as error:
        raise RecordError(f"{path.name}: {str(error).removeprefix(f'{path} ')}") from None
    start = len(image) - sum(entry.data_offsets[1] - entry.data_offsets[0] for entry in header.tensors.values())
    arrays = {name: np.frombuffer(image, kind, n[0], start + header.tensors[name].data_offsets[0])
              for name, (_, kind) in ARRAYS.items()}  # fmt: skip
    run_id, split, lists = (header.texts.get(key, "") for key in ("id", "split", "list_sha256"))
    return Predictions(run_id, split, lists, arrays["top1"], arrays["probability"], arrays["label"])
