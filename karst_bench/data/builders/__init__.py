"""Sets from their original archives, from the zips in use, or by tensorflow-datasets, into the folders that runs read."""

from karst_bench.data.builders.prepare import Prepared, prepare_data
from karst_bench.data.builders.status import SetStatus, status
from karst_bench.data.sources.vtab_splits import split_keys

__all__ = ["Prepared", "SetStatus", "prepare_data", "split_keys", "status"]
