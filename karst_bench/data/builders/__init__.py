"""Sets from their original archives, from the zips in use, or by tensorflow-datasets, into the folders that runs read."""

from karst_bench.data.builders.prepare import Prepared, prepare
from karst_bench.data.builders.splits import split_keys
from karst_bench.data.builders.status import SetStatus, status

__all__ = ["Prepared", "SetStatus", "prepare", "split_keys", "status"]
