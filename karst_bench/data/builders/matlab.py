"""MATLAB 5 files by scipy, with one error for whatever a damaged one raises."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from karst_bench.errors import UserError


def read_mat(path: Path, name: str, data: bytes | None = None) -> np.ndarray:
    """The variable `name` of a .mat file, or of its bytes `data` (path is then for messages).

    Raises: UserError naming the file where it is damaged, of version 7.3, or has no such variable.
    """
    try:
        found: dict[str, Any] = scipy.io.loadmat(
            path if data is None else io.BytesIO(data), variable_names=[name], squeeze_me=False, struct_as_record=True
        )
    except NotImplementedError as error:
        raise UserError(f"{path}: a MATLAB 7.3 file, where the authors publish version 5; fetch it again") from error
    except Exception as error:  # scipy's reader lets anything through that a damaged file makes it meet
        raise UserError(
            f"{path}: not a readable .mat file ({type(error).__name__}: {error}); fetch it again"
        ) from error
    if name not in found:
        raise UserError(f"{path}: holds no variable {name}; is it the file that its name says?")
    return np.asarray(found[name])
