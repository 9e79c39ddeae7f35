"""Search hyper-parameters on the val split: python scripts/tune.py method=karst dataset=mini/count trials=30 workers=2.

trials: size of the study, 30 by default (resumed where it was if it exists). workers: processes on this machine; the
same command on another machine with the same outputs folder joins in. table: where the result goes, by default
<paths.results>/tuned/ours/<method>.yaml, which `tuned=ours` reads. All other words are overrides of run.py; a key that is given is
not searched. Several values (recipe.lr=3e-3,1e-2,3e-2) make the study their grid: each point once and nothing else.
"""

import os
import subprocess
import sys
from pathlib import Path

OWN = {"trials": "", "workers": "1", "table": "", "join": "false"}


def main(words: list[str]) -> int:
    """Run a study to its number of trials and write the result; 2 for bad input. Without words: help."""
    from karst_bench.cli.options import HELP, count

    if not words or HELP & set(words):
        print((__doc__ or "").strip())
        return 0
    from karst_bench.engine.outcome import Interrupted
    from karst_bench.errors import UserError
    from karst_bench.run.tuning import Worker, search, tuned_table, write_tuned

    given = dict(word.partition("=")[::2] for word in words)
    own = {key: given.get(key, default) for key, default in OWN.items()}
    overrides = [word for word in words if word.partition("=")[0] not in OWN]
    try:
        asked = count("trials", own["trials"]) if own["trials"] else None
        workers = count("workers", own["workers"])
        found = search(overrides)
        trials = found.budget(asked)
        worker = Worker(found, trials)
        helpers = [start_helper(overrides, trials, workers) for _ in range(workers - 1)]
        worker.work()
        failed = [helper.pid for helper in helpers if helper.wait() != 0]
        if failed:
            print(
                f"{len(failed)} of {workers} workers failed; the same command goes on where they stopped",
                file=sys.stderr,
            )
            return 1
        if own["join"] == "true":
            return 0
        table = Path(own["table"] or tuned_table(found))
        result = write_tuned(worker, table)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    default = result["default_val_top1_pct"]
    print(f"best of {trials}: val top-1 {result['val_top1_pct']:.2f} % (default {default:.2f} %), {result['values']}")
    print(f"written to {table}; use it with tuned=ours")
    return 0


def start_helper(overrides: list[str], trials: int, workers: int) -> "subprocess.Popen[bytes]":
    """Another worker on the same study, with its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    command = [sys.executable, __file__, *overrides, f"trials={trials}", "join=true"]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
