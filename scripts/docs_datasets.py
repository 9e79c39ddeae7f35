"""docs/datasets.md from the dataset YAMLs: python scripts/docs_datasets.py [out=FILE]"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karst_bench import files
from karst_bench.cli.app import generator
from karst_bench.config.datasets import dataset_configs
from karst_bench.data.sources.published import fewshot_source
from karst_bench.data.sources.vtab_splits import RULES, SplitRule

PAGE = Path(__file__).resolve().parents[1] / "docs" / "datasets.md"
INTRO = """# Data sets

<!-- Written by `python -m scripts.docs_datasets` from conf/dataset/; edit the YAML files. -->

The 19 tasks of VTAB-1K in their three groups, and five few-shot sets. None is part of this repository. Licences are notes
of what the authors state, not advice: check them before use. (The embedded `mini/*` sets have their own page.)

## VTAB-1K

Each task trains on 800 images, chooses on 200 (`val200`), and after that trains on both (`train800val200`) and is tested
once. `paths.data` holds `vtab-1k/<folder>/` with `images/<split>/NNNNNN.jpg` and one list a split, lines of
`<path> <label>`; the folder's other usual names are accepted, and `paths.data` may itself be the folder of tasks.
`karst-bench data prepare` makes them ([how to get each](data_sources.md)), `karst-bench data status root=DIR` says what is
there, `karst-bench data audit root=DIR` looks at every line and image. With `dataset.source=tfds`, sets that
tensorflow-datasets prepared with `--file_format=array_record` are read without TensorFlow (the builder is given below); with
`dataset.source=hf`, parquet files of a local folder or of the Hugging Face hub.

Distributed folders are mostly JPEGs of quality 75, also of 32 x 32 images. The encoding is read from the files and stands
in every record (`png`, `jpeg75`, ...): compare only like with like.
"""

FEWSHOT = """## Few-shot sets

`dataset.shots` is 1, 2, 4, 8 or 16 images a class, `dataset.split_seed` 0, 1 or 2; the validation list chooses the epoch,
the test list is looked at once, and a result is the mean over the three split seeds. `karst-bench data fewshot
root=DIR` fetches the published lists ({repository}, commit {commit:.12}, MIT; 86 files checked by SHA-256) and finds
the images in the layouts of NOAH, KARST/DTL, torchvision or CoOp, or unpacks the original archives.
"""

CACHE = """## What happens to the images

Training sets are decoded once, resized to the input size, and kept under `paths.cache` as one memory-mapped file a split;
test sets too, at their own size where that is smaller and the same for all. `cache_gb` bounds what all entries take
together: beyond it, or where the disk is full or read-only, a set is held in memory or decoded whenever it is read, and one
line says so. An entry is checked when it is opened (large ones as they are read) and rebuilt if it is damaged, or if a file,
a list, the transform or the decoder changed. Deleting the folder is always safe.

Transforms: `vtab` squashes to the input size (bicubic, antialiased), without crop or flip; `fs_test` squashes to 256/224 of
it and takes the centre; the few-shot recipes crop at random from a larger copy. What is done at random stands in
`conf/augment` (`none`, `fs_dtl`, `fs_noah`), which a recipe chooses: crop, flip, RandAugment, erasing, mixup and cutmix.
`augment=none` takes another file, `augment.erase=0.5` another value, which is then another run: its name in `recipe.augment`
ends with a hash of the values. A file of your own needs no Python. Crops, flips and RandAugment are drawn alike everywhere;
on a CPU Pillow carries them out, on a GPU torch does, where the images lie: the same images to one grey level, after a
rotation, shear or shift to half a level on average. Grey, CMYK, palette, RGBA and 16-bit files become 8-bit
RGB; an EXIF rotation is not applied, as in the readers that published numbers come from. A list of another size or hash than
the published one runs, with one warning, and its record says `own split`; a bad line, a missing or unreadable image, or an
image that is both trained on and tested on stops the run with its name and the remedy.
"""


def page() -> str:
    """The whole page, in Markdown."""
    datasets = dataset_configs()
    repository, commit, _ = fewshot_source()
    parts = [INTRO, _overview({name: dataset for name, dataset in datasets.items() if dataset["suite"] == "vtab"})]
    for group in ("natural", "specialized", "structured"):
        parts += [f"### {group.capitalize()}\n", *(_vtab(dataset) for dataset in datasets.values() if dataset["group"] == group)]
    parts.append(FEWSHOT.format(repository=repository, commit=commit))
    parts += [_fewshot(dataset) for dataset in datasets.values() if dataset["suite"] == "fewshot"]
    parts.append(CACHE)
    return "\n".join(parts)


def _overview(datasets: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| option | group | classes | test images | folder |", "|---|---|--:|--:|---|"]
    for name, found in datasets.items():
        lines.append(f"| `{name}` | {found['group']} | {found['classes']} | {found['sizes']['test']} | `{found['folder']}` |")
    total = sum(dataset["sizes"]["test"] for dataset in datasets.values())
    return "\n".join([*lines, "", f"{len(datasets)} tasks, {total} test images.", ""])


def _facts(dataset: Mapping[str, Any]) -> list[str]:
    return [
        f"- Origin: {dataset['origin']}.",
        f"- Label: {dataset['label_rule']}.",
        f"- Licence: {dataset['licence']}.",
        f"- Known issues: {dataset['known_issues']}.",
    ]


def _vtab(dataset: Mapping[str, Any]) -> str:
    names = ", ".join(f"`{name}`" for name in dataset["aliases"])
    lines = [
        f"#### {dataset['name']}\n",
        f"{dataset['classes']} classes, {dataset['sizes']['test']} test images. Folder `{dataset['folder']}`, also {names}."
        f" TFDS: `{dataset['tfds']['builder']}` ({', '.join(map(_slice, RULES[dataset['task']].values()))}).\n",
        *_facts(dataset),
    ]
    return "\n".join([*lines, ""])


def _slice(rule: SplitRule) -> str:
    which = rule.split if rule.count is None else f"{rule.count} of {rule.split}"
    return which + (f" from {rule.from_pct} %" if rule.from_pct else "")


def _fewshot(dataset: Mapping[str, Any]) -> str:
    folders = ", ".join(f"`{folder}`" for folder in dataset["image_dirs"])
    lines = [
        f"### {dataset['name']}\n",
        f"{dataset['classes']} classes, {dataset['sizes']['val']} validation and {dataset['sizes']['test']} test images. Lists in"
        f" `few-shot/{dataset['folder']}/annotations`; images in one of {folders}.\n",
        *_facts(dataset),
    ]
    return "\n".join([*lines, ""])


def main(out: Path = PAGE) -> None:
    """Write docs/datasets.md from conf/dataset."""
    files.write(out, page().encode())
    print(out)


if __name__ == "__main__":
    generator(main)
