"""The README tells of what is there: every method with its count, every dataset, the steps as they were measured."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

from karst_bench import __version__
from karst_bench.config.option_files import options
from karst_bench.records.record import load
from scripts.docs_gpu import with_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_method_table_agrees_with_the_generated_page() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    generated = {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| \[`(\w+)`\]\(#\w+\) \| (\S+) \| \S+ \| (\S+) \|", page, re.M)}
    result = {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| \[(\w+)\]\(docs\S+\) \| (\S+) \| (\S+) \|", README, re.M)}
    assert len(result) == 6 and result.items() <= generated.items()
    assert set(generated) == set(options("method")) - {"none"}
    assert f"{len(generated)} methods and variants" in README


def test_the_results_are_those_of_the_records() -> None:
    """Mean over the nine tasks of the mean over seeds, at the searched learning rates, on both backbones, by the newest torch
    that ran them all."""
    records = [load(path) for path in sorted((ROOT / "results" / "reference" / "mini").glob("*.json"))]
    rows = {"linear probe on random weights": ("linear", "none"), "linear probe": ("linear", "pretrained"),
            "LoRA": ("lora", "pretrained"), "KARST": ("karst", "pretrained"),
            "full fine-tuning": ("full", "pretrained")}  # fmt: skip
    found: dict[tuple[str, str, str], dict[str, dict[str, list[float]]]] = {}
    for record in records:
        config = record.config
        backbone = config["backbone"]
        plain = config.get("regularizer", {"name": "none"})["name"] == "none" and config["method"].get("N", 2) == 2
        if config["tuned"]["name"] != "none" and plain and config["dataset"].get("shots") is None:
            runs = found.setdefault((config["method"]["name"], backbone["weights"], backbone["name"]), {})
            tasks = runs.setdefault(record.provenance.packages["torch"], {})
            tasks.setdefault(config["dataset"]["task"], []).append(record.metrics.accuracy()[1])
    for title, ran in rows.items():
        printed = re.search(rf"^\| {title} \| (\S+) \| (\S+) \| (\d) \|$", README, re.M)
        assert printed, title
        for value, backbone in zip(printed.groups(), ("vit_mini", "swin_mini"), strict=False):
            whole = {torch: tasks for torch, tasks in found[*ran, backbone].items() if sum(map(len, tasks.values())) >= 27}
            tasks = whole[max(whole, key=lambda version: [int(part) for part in version.split(".")])]
            assert len(tasks) == 9 and {len(runs) for runs in tasks.values()} == {int(printed[3])}, title
            assert float(value) == pytest.approx(mean(map(mean, tasks.values())), abs=0.051), (title, backbone)


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_dataset_is_named(dataset: str) -> None:
    suite, _, name = dataset.rpartition("/")
    named = rf"`{suite}/` \+[^|]*\b{name}\b" if suite else rf"\| `{name}`"
    assert re.search(named, README), f"README does not name {dataset}"


@pytest.mark.parametrize("target", re.findall(r"\]\(([\w/.-]+)", README))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_table_of_steps_is_what_was_measured() -> None:
    """Columns: ViT and Swin step, ViT memory in fp32 and in bf16; all over the floor's."""
    vit, swin = (json.loads((ROOT / f"benchmarks/results/steps_{name}.json").read_text())
                 for name in ("vit_base_patch16_224_b4", "swin_base_patch4_window7_224_b2"))  # fmt: skip
    names = {"LoRA (qkv, r 8), ours": "LoRA qkv r 8, ours", "KARST, the published arithmetic": "KARST, published arithmetic (a)"}
    section = README[README.index("**On a CPU**") :].split("\n## ")[0]
    result = [[cell.strip() for cell in re.sub("[*`]", "", line).split("|")[1:-1]] for line in section.splitlines()
            if re.search(r"\| [*\d]", line)]  # fmt: skip
    assert len(result) == 3
    for name, *cells in result:
        row = names.get(name, name)
        measured = (vit["rows"][row]["cpu_ratio_median"], swin["rows"][row]["cpu_ratio_median"],
                    vit["rows"][row]["with_weights_ratio"], vit["bf16"][row]["with_weights_ratio"])  # fmt: skip
        assert [float(cell) for cell in cells] == pytest.approx(measured, abs=0.0051), name


def gpu_rows(name: str) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = json.loads((ROOT / f"benchmarks/results/gpu_{name}.json").read_text())["rows"]
    return rows


def test_what_a_gpu_takes_is_what_was_measured() -> None:
    """Columns: a captured and a compiled step on two cards, over the floor's; how many methods keep to 1.7 floors; whole runs."""
    vit, swin = "vit_base_patch16_224_b64", "swin_base_patch4_window7_224_b64"
    h100, h200, slow = (gpu_rows(f"{name}_{vit}") for name in ("compiled_h100", "compiled", "slow_methods"))
    h200["KARST, ours, captured"] = slow["karst, captured"]
    section = README[README.index("**On a GPU**") : README.index("**On a CPU**")]
    names = {"LoRA (qkv, r 8), ours": "LoRA qkv r 8, ours",
             "LoRA (four linears, r 8), peft": "LoRA on four linears r 8, peft"}  # fmt: skip
    rows = [[cell.strip() for cell in re.sub("[*`]", "", line).split("|")[1:-1]] for line in section.splitlines()
            if re.search(r"\| [*LK]", line)]  # fmt: skip
    assert len(rows) == 3
    for name, *cells in rows:
        of = names.get(name, name)
        measured = [card[row]["wall_ratio_median"] if row in card else None
                    for card in (h100, h200) for row in (f"{of}, captured", f"{of}, compiled and captured")]  # fmt: skip
        assert [None if cell == "—" else float(cell) for cell in cells] == [
            value if value is None else pytest.approx(value, abs=0.0051) for value in measured
        ], name
    ratios = [row["wall_ratio_median"] for row in (gpu_rows(f"methods_{vit}") | slow).values()]
    assert f"{sum(ratio <= 1.7 for ratio in ratios)} of the {len(ratios)} methods measured" in section
    assert all(f"{slow[f'{name.lower()}, captured']['wall_ratio_median']:.1f})" in section for name in ("SNELL", "SNELLA"))
    karst = gpu_rows(f"slow_methods_{swin}")["karst, captured"]["wall_ratio_median"]
    assert f"On Swin-B KARST takes {karst:.2f} floors" in " ".join(section.split())
    runs = gpu_rows("long_run")
    warm, cold = (f"{runs[row]['wall_s']:.0f} s" for row in ("compile, again", "compile"))
    assert f"take {warm} on the H200, compiled; the first such run on a machine {cold}" in " ".join(section.split())


def test_what_fits_on_a_gpu_is_what_was_counted() -> None:
    """docs/gpu.md is written from it (python scripts/docs_gpu.py)."""
    rows = json.loads((ROOT / "benchmarks/results/memory.json").read_text())["rows"]
    page = (ROOT / "docs/gpu.md").read_text()
    assert page == with_table(page, rows)
    for model in ("vit_base", "swin_base"):
        kept = {name.partition(": ")[2]: row["kept_ratio"] for name, row in rows.items() if name.startswith(model)}
        assert kept["KARST, as a run on a GPU"] <= kept["KARST, all tokens"] <= 1.15
        assert kept["KARST, recompute=true"] <= kept["KARST, all tokens, recompute=true"] <= 1.0
    for name in ("vit_large_patch16_224, batch 256", "vit_huge_patch14_224, batch 64"):
        assert rows[f"{name}: KARST, as a run on a GPU"]["total_bytes"] < 139e9, "one H200"


def test_the_citation_and_the_changelog_name_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == __version__
