"""Whether an adapter in a results folder is the one that its record speaks of."""

from pathlib import Path

from karst_bench import files
from karst_bench.errors import UserError
from karst_bench.records import record as schema
from karst_bench.records.strict_json import RecordError


def check_adapter(path: Path) -> None:
    """Compares results/adapters/<suite>/<id>... with results/runs/<suite>/<id>.json; a file elsewhere has no record to ask.

    Raises: UserError where the SHA-256 differs.
    """
    path = path.absolute()
    suite, kind = path.parent, path.parent.parent
    if kind.name != "adapters" or not path.is_file():
        return
    root = kind.parent
    try:
        record = schema.load(root / "runs" / suite.name / f"{path.name.split('.')[0]}.json")
    except RecordError:
        return
    if record.adapter != path.relative_to(root).as_posix() or record.adapter_sha256 is None:
        return
    found = files.sha256(path)
    if found != record.adapter_sha256:
        raise UserError(
            f"{path} has the SHA-256 {found[:16]}..., its record {record.adapter_sha256[:16]}...: it was changed after the run. "
            "force=true makes it again; a copy elsewhere is read without its record"
        )
