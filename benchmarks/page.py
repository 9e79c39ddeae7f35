"""benchmarks/results/README.md: every measured figure as a table, from the JSON files alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

COLUMNS = {
    "wall_median_s": ("wall (ms)", 1e3, ".0f"), "cpu_ratio_median": ("/ floor", 1, ".3f"),
    "cpu_ratio_min": ("/ floor, minima", 1, ".3f"), "activations_ratio": ("kept for backward / floor", 1, ".2f"),
    "with_weights_ratio": ("kept, weights counted", 1, ".2f"), "peak_bytes": ("peak of a step (MB)", 1e-6, ".0f"),
    "launches": ("operations", 1, ".0f"), "kept_ratio": ("kept for backward / floor's", 1, ".3f"),
    "kept_bytes": ("kept for backward (GB)", 1e-9, ".2f"), "total_bytes": ("with weights and optimiser (GB)", 1e-9, ".2f"),
    "runs_per_hour": ("runs an hour", 1, ".0f"), "later_per_hour": ("after each process's first", 1, ".0f"),
    "speedup": ("/ one process", 1, ".2f"), "as_alone": ("runs with one process's losses", None, ""),
    "prepare_s": ("preparing (s)", 1, ".1f"),
    "share_of_product_rate": ("share of the product rate", 1, ".2f"), "failed": ("not measured, because", None, ""),
}  # fmt: skip
PHASES = {
    "setup_s": "set-up (s)", "train_s": "training (s)", "evaluate_s": "test pass (s)", "steps_s": "steps alone (s)",
    "test_s": "test alone (s)", "wall_s": "whole run (s)", "wall_ratio": "whole / alone", "last_loss": "last loss",
    "mode": "steps ran",
}  # fmt: skip


def write(folder: Path) -> None:
    """The page of all *.json in the folder."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    parts = ["# What was measured\n", "Written by `make bench` from the JSON files beside this page.\n"]
    for name, result in results.items():
        parts += [f"## {name}\n", _about(result), _table(name, result), _bf16(result)]
    (folder / "README.md").write_text("\n".join(part for part in parts if part))


def _about(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    keys = ("model", "depth", "batch", "rounds", "blocks")
    facts = [result["what"]] + [f"{key} {result[key]}" for key in keys if result.get(key)]
    if result.get("rounds"):
        facts.append(f"ratios are medians of {'wall' if result.get('clock') == 'wall' else 'CPU'} time within a round")
    facts.append(f"{machine['cpu']} ({machine['capability']}), {machine['threads']} threads, torch {machine['torch']}")
    cut_off = " Cut off: the rows that were measured." if result.get("unfinished") else ""
    return "; ".join(facts) + f"; GPU: {machine['gpu']}.{cut_off}\n"


def _table(name: str, result: Mapping[str, Any]) -> str:
    rows: Mapping[str, Mapping[str, Any]] = result["rows"]
    if name.startswith(("phases", "gpu_long_run", "gpu_tasks19")):
        shown_phases = {key: title for key, title in PHASES.items() if any(key in values for values in rows.values())}
        lines = [[row, *(values.get(key, "") for key in shown_phases)] for row, values in rows.items()]
        return _aligned(lines, [*shown_phases.values()])
    if name.removesuffix("_unfinished") in ("forms", "gpu_forms"):
        return _forms(rows, result.get("clock", "cpu"))
    base = next((row for row in ("plain", "eager") if row in rows), "floor")
    columns = {
        key.replace("cpu", result.get("clock", "cpu")): (title.replace("floor", base), scale, form)
        for key, (title, scale, form) in COLUMNS.items()
    }
    shown = {key: column for key, column in columns.items() if any(key in values for values in rows.values())}
    lines = [
        [row, *(_cell(values.get(key, ""), scale, form) for key, (_, scale, form) in shown.items())]
        for row, values in rows.items()
    ]
    return _aligned(lines, [title for title, _, _ in shown.values()])


def _cell(value: Any, scale: float | None, form: str) -> str:
    return str(value) if scale is None or value == "" else format(scale * value, form)


def _forms(rows: Mapping[str, Mapping[str, Any]], clock: str) -> str:
    """Medians over the frozen layer's, and the form that the product takes."""
    ending = f": {clock}_ratio_median"
    keys = [key for key in next(iter(rows.values())) if key.endswith(ending)]
    lines = [[row, *(format(values[key], ".2f") for key in keys), values["chosen"]] for row, values in rows.items()]
    return _aligned(lines, [*(f"{key.removesuffix(ending)} / frozen" for key in keys), "chosen"])


def _bf16(result: Mapping[str, Any]) -> str:
    """What a step keeps under bf16 autocast, where nothing else was measured in it."""
    rows = result.get("bf16")
    if not isinstance(rows, dict) or any("wall_median_s" in values for values in rows.values()):
        return ""
    keys = {"activations_ratio": "kept for backward / floor", "with_weights_ratio": "kept, weights counted"}
    lines = [[row, *(format(values[key], ".2f") for key in keys)] for row, values in rows.items()]
    return "bf16 autocast (times not measured: this CPU emulates bf16):\n\n" + _aligned(lines, list(keys.values()))


def _aligned(lines: list[list[Any]], heads: list[str]) -> str:
    table = tabulate(lines, headers=["", *heads], tablefmt="pipe", colalign=["left", *["right"] * len(heads)],
                     disable_numparse=True)  # fmt: skip
    return table + "\n"
