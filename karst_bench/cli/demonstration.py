"""`karst-bench demo`: KARST and a linear probe on an embedded task, and what came out."""

import shutil
import time
from pathlib import Path

OUT = Path("outputs/demo")
METHODS = ("linear", "karst")
DATASET = "mini/location"


def show() -> None:
    """Trains both into outputs/demo and prints a table of them."""
    started = time.perf_counter()
    print(
        f"KARST against a linear probe on {DATASET}: 1000 generated images, a small pre-trained ViT, this machine.\n",
        flush=True,
    )
    shutil.rmtree(OUT, ignore_errors=True)
    from tabulate import tabulate

    from karst_bench.config.compose import settings_of
    from karst_bench.run.pipeline import run

    records = [
        run(settings_of([f"method={method}", f"dataset={DATASET}", f"paths.results={OUT}"])) for method in METHODS
    ]
    rows = [
        {
            "method": record.config["method"]["name"],
            "test top-1 (%)": record.metrics.test_top1_last_pct,
            "trained parameters": record.counts.trainable_params,
            "head": record.counts.head_params,
            "train (s)": record.seconds.train_s,
            "test (s)": record.seconds.evaluate_s,
            "record": f"{OUT}/runs/mini/{record.id}.json",
        }
        for record in records
    ]
    print(tabulate(rows, headers="keys", floatfmt=".1f", intfmt=","))
    print(f"\n{time.perf_counter() - started:.0f} s in all, one seed: a demonstration, not a result.")
    print("Next: karst-bench run --help, or karst-bench run -m method=karst,lora,linear seed=0,1,2")
