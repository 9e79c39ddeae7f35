"""docs/results-mini.md says what the committed records say."""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from report_records import full_suite, write

from scripts import docs_results_mini
from scripts.results_mini.accuracy import hero_pairs, told
from scripts.results_mini.evidence import evidence

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "mini"


def test_the_page_is_current():
    text = docs_results_mini.render(docs_results_mini.evidence(REFERENCE))
    assert docs_results_mini.PAGE.read_text() == text, "run `python scripts/docs_results_mini.py`"


def test_karst_minus_lora_is_what_the_files_say():
    """By hand from the JSON: the mean over tasks of the mean over seeds, and the tasks that KARST wins."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in REFERENCE.glob("*.json"):
        run = json.loads(path.read_text())
        config, method = run["config"], run["config"]["method"]
        usual = {"karst": {"N": 2, "m": 8, "r": 8}, "lora": {"r": 8}}.get(method["name"])
        if usual is None or any(method[key] != value for key, value in usual.items()):
            continue
        facts = (
            config["backbone"]["name"],
            config["tuned"]["name"],
            config["dataset"]["shots"],
            config["protocol"]["final"],
        )
        if facts == ("vit_mini", "ours", None, "test"):
            found[method["name"]][config["dataset"]["task"]][config["seed"]] = run["metrics"]["test_top1_last_pct"]
    means = {
        name: {task: np.mean(list(seeds.values())) for task, seeds in tasks.items()} for name, tasks in found.items()
    }
    gaps = [means["karst"][task] - means["lora"][task] for task in means["karst"]]
    text = docs_results_mini.PAGE.read_text()
    line = next(line for line in text.splitlines() if line.startswith("| `lora [tuned=ours]`") and " of 9 " in line)
    assert f"{np.mean(gaps):+.1f} ±" in line and f"{sum(gap > 0 for gap in gaps)} of 9" in line


def test_words_follow_the_numbers(tmp_path):
    """Made records: KARST lies 3.5 points above LoRA and 20 above linear; every section has its numbers."""
    made = full_suite("mini")
    write(tmp_path, *[item for item in made if item["config"]["method"]["name"] in ("karst", "lora", "linear")])
    seen = evidence(tmp_path / "runs" / "mini")
    text = docs_results_mini.render(seen)
    assert re.search(r"KARST wins against `linear`\s+and\s+`lora`|KARST wins against `lora`\s+and\s+`linear`", text)
    assert "runs looked at the test set" in text and "4-shot" in text and "N=4 m=8 r=8" in text
    hero, *others = seen.rows("none")
    (pair,) = hero_pairs(others[0], [hero], seen.suite)
    assert told(pair) == "loses" and pair.difference < 0


def test_without_records_no_number_stands(tmp_path):
    text = docs_results_mini.render(evidence(tmp_path))
    assert "This is not VTAB" in text and text.count("No runs yet.") == len(docs_results_mini.SECTIONS)
    assert not re.search(r"\d\.\d", text.split("## ", 1)[1])
