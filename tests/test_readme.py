"""The README tells of what is there: every method with its count, every dataset, the steps as they were measured."""

import json
import re
from pathlib import Path

import pytest

from karst_bench.config.option_files import options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_method_table_agrees_with_the_generated_page() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    generated = {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| \[`(\w+)`\]\(#\w+\) \| (\S+) \| \S+ \| (\S+) \|", page, re.M)}
    result = {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| \[(\w+)\]\(docs\S+\) \| (\S+) \| (\S+) \|", README, re.M)}
    assert result == generated
    assert set(result) == set(options("method")) - {"none"}


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_dataset_is_named(dataset: str) -> None:
    suite, name = dataset.split("/")
    assert re.search(rf"`{suite}/` \+[^|]*\b{name}\b", README), f"README does not name {dataset}"


@pytest.mark.parametrize("target", re.findall(r"\]\(([\w/.]+)", README))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_table_of_steps_is_what_was_measured() -> None:
    """Columns: ViT and Swin step, ViT memory in fp32 and in bf16; all over the floor's."""
    vit, swin = (json.loads((ROOT / f"benchmarks/results/steps_{name}.json").read_text())
                 for name in ("vit_base_patch16_224_b4", "swin_base_patch4_window7_224_b2"))  # fmt: skip
    names = {"LoRA (qkv, r 8), ours": "LoRA qkv r 8, ours", "LoRA (qkv, r 8), HF peft": "LoRA qkv r 8, peft",
             "LoKr, lycoris (1 kernel, 4 linears)": "LoKr, lycoris", "KARST, ours, recompute=true": "KARST, ours, recompute",
             "KARST, the published arithmetic": "KARST, published arithmetic (a)", "full fine-tuning": "full"}  # fmt: skip
    section = README[README.index("## What a step costs") :].split("\n## ")[0]
    result = [[cell.strip() for cell in re.sub("[*`]", "", line).split("|")[1:-1]] for line in section.splitlines()
            if re.search(r"\| [*\d]", line)]  # fmt: skip
    assert len(result) == 7
    for name, *cells in result:
        row = names.get(name, name)
        measured = (vit["rows"][row]["cpu_ratio_median"], swin["rows"][row]["cpu_ratio_median"],
                    vit["rows"][row]["with_weights_ratio"], vit["bf16"][row]["with_weights_ratio"])  # fmt: skip
        assert [float(cell) for cell in cells] == pytest.approx(measured, abs=0.0051), name
