"""Letting tensorflow-datasets prepare a set as array_record files, where TensorFlow is installed."""

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karst_bench.data.sources.tfds import find_prepared
from karst_bench.errors import UserError

log = logging.getLogger(__name__)


def build_tfds(dataset: Mapping[str, Any], root: Path) -> str:
    """Prepare a VTAB task's builder below `root` (array_record files); what to say about it.

    Raises: UserError where the set has no builder, TensorFlow is missing, or preparing fails.
    """
    if "tfds" not in dataset:
        raise UserError(f"{dataset['name']}: source=tfds is for vtab sets; use source=raw")
    request = dataset["tfds"]["builder"]
    try:
        return f"prepared already in {find_prepared(request, root)}; read it with dataset.source=tfds"
    except UserError:
        pass
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{dataset['name']}: preparing {request} takes TensorFlow, which is not installed; pip install"
            " 'karst_bench[tfds-prepare]' (about 0.3 GB), prepare it on another machine, or use source=raw, which needs"
            " neither"
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder(request, data_dir=root, file_format="array_record")
    log.info("%s: tensorflow-datasets prepares %s in %s", dataset["name"], builder.info.full_name, root)
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever a builder of theirs meets: a dead address, a manual file, a full disk
        raise UserError(f"{dataset['name']}: tensorflow-datasets could not prepare {request}: {error}") from error
    return f"prepared in {builder.data_path}; read it with dataset.source=tfds"
