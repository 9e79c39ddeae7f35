# ruff: noqa: E501 (tables of Markdown)
"""docs/data_sources.md from the readers of the archives."""

from collections.abc import Mapping, Sequence
from typing import Any

from karst_bench.config.datasets import dataset_configs
from karst_bench.data.builders.fgvc.build import READERS as FGVC
from karst_bench.data.builders.from_zip import HUB
from karst_bench.data.builders.raw import Archive
from karst_bench.data.builders.tasks import READERS
from karst_bench.data.sources.parquet_places import repositories
from karst_bench.download import readable

INTRO = """# How to get each task

<!-- Written by `python -m scripts.docs_data_sources` from the readers in karst_bench/data/builders; edit those. -->

    karst-bench data prepare tasks=all root=DIR               # from the original archives, every pixel kept
    karst-bench data prepare tasks=dtd,pets root=DIR archive=FOLDER   # from files at hand
    karst-bench data prepare tasks=all root=DIR source=zip    # the folders that other repositories hand round
    karst-bench data status root=DIR                          # what is here, from where, audited when

DIR is `paths.data`. A set that is there is left alone, a download or build that was broken off goes on where it stopped, and
nothing is put in place before it is whole and audited. Downloads stay in `DIR/archives`; delete them when you are done.

| source | what it is | lossless | which images |
|---|---|---|---|
| `source=raw` | the authors' archives, cut by VTAB-1K's own rule | yes (`encoding=png`; `jpeg75` imitates the distributed folders) | the published ones; caltech101 is an own split |
| `source=zip` | one zip of 19 folders, 4.7 GB: `archive=hub` ({hub}) or `archive=drive` (Google Drive, file id 1yZKwiKdsBzTfBgnStRveYMokc7GMMd5p) | no: JPEG of quality 75, also of 32 x 32 pictures | somebody's run of the same rule; lists are checked, sizes and known labels compared |
| `dataset.source=hf` | parquet files from DIR/parquet, the hub's cache or the hub | `bramtoula/*` yes; `clip-benchmark/*` as webp | `bramtoula/*` VTAB-1K's splits; the others the test set alone |
| `dataset.source=tfds` | array_record files of tensorflow-datasets, read without TensorFlow | yes | the published ones; caltech101 is that machine's split |

A copy on the hub is a repository that its owner may change: the commit that was read stands in the notes of every record, with
*not pinned* where none was asked for. `+dataset.hf.revision=COMMIT` pins it (with `+dataset.hf.repository=OWNER/NAME` for a copy
that is not in the table); three copies below are pinned by this suite, at the commits that others were seen to use. Without network the
hub's own cache is read.

`source=tfds` lets tensorflow-datasets prepare the files, which takes TensorFlow (`pip install 'karst_bench[tfds-prepare]'`).
`to=hf` writes a built set as parquet files with a data card. A run on the zips is comparable with the numbers of NOAH, SSF and
FacT, one on undamaged pixels with those of VPT; every record and table says which it was. One copy of the zip was seen with 12
of the 19 tasks: what is missing is named.

A file that differs from the published one (size, SHA-256) is refused. `verify=false` builds from it all the same, and every
record says so. Archives with links, with names that leave the folder, or that unpack to more than is plausible are refused;
members are read one at a time and never unpacked to disk, except PatchCamelyon's (HDF5 in gzip: 8 GB more while it is built).
The pickled CIFAR-100 is not read. PatchCamelyon and the .hdf5 of dSprites need h5py (`pip install 'karst_bench[data]'`).

## The 19 tasks

""".replace("{hub}", HUB.removeprefix("https://").partition("/resolve")[0])

SPECIAL = """
What is more than a choice of images, as in the set that published numbers stand on:

- **caltech101**: 30 training images of a class are drawn from the sorted listing. tensorflow-datasets draws them from the listing
  as the file system gives it, so the published split exists on one machine only. Every record of a built caltech101 says *own split*.
- **sun397**: images of more than 120,000 pixels are shrunk to that and pass through JPEG of quality 95; two damaged files are left out.
- **retinopathy**: *btgraham-300*: the eye scaled to a radius of 300 pixels, four times the difference from a Gaussian blur of
  sigma 10, plus 128, the inner 90 % kept, JPEG of quality 72.
- **dsprites_location** is the x position alone. **kitti_distance** is cut by video. **clevr**: its validation set is the test set.
- Blur and resampling agree with OpenCV's, which tensorflow-datasets uses, to one grey level.

## The five fine-grained sets (fgvc/*)

    karst-bench data prepare tasks=fgvc/cub root=DIR lists=json.zip

`lists=` names a folder or zip of VPT's split lists, `{path: class}` in train.json, val.json and test.json for each set (VPT's own
link is dead; `fgvc_split.zip` or `json.zip` of the data set XiN0919/FGVC on the Hugging Face hub hold them). Without it, a tenth of the
official training images is kept for validation by a hash of their paths: VPT's sizes, not its draw, and every record says so.
Images stay as they are. `dataset=fgvc/all` stands for the five; the recipe is petl100, the validation list chooses the epoch.

"""

# where the authors' sites or their readers tell, for files without a published size
ABOUT = {"resisc45": "about 0.4 GB", "retinopathy": "about 80 GB", "nabirds": "about 10 GB",
         "dsprites_location": "about 27 MB", "dsprites_orientation": "about 27 MB"}  # fmt: skip


def page() -> str:
    """The whole page, in Markdown."""
    datasets = dataset_configs()
    vtab = {name: found for name, found in datasets.items() if found["suite"] == "vtab"}
    fgvc = {name: found for name, found in datasets.items() if found["suite"] == "fgvc"}
    parts = [INTRO, *_table(vtab, copies=True), SPECIAL, *_table(fgvc, copies=False), "\n", TIMES]
    return "".join(parts)


def _table(datasets: Mapping[str, Mapping[str, Any]], *, copies: bool) -> list[str]:
    lines = [f"| set | original files | size | to have it | licence |{' parquet copies |' if copies else ''}\n"]
    lines.append(f"|---|---|--:|---|---|{'---|' if copies else ''}\n")
    readers: Mapping[str, Any] = READERS if copies else FGVC
    for dataset in datasets.values():
        kind = readers[dataset["task"]]
        size = ABOUT.get(dataset["task"]) or readable(sum(archive.size or 0 for archive in kind.archives))
        row = [f"`{dataset['name']}`", _names(kind.archives), size, _how(kind), dataset["licence"]]
        if copies:
            row.append(", ".join(map(_copy, repositories()[dataset["task"]])) or "none known")
        lines.append(f"| {' | '.join(row)} |\n")
    return lines


def _copy(entry: Mapping[str, str]) -> str:
    revision = entry.get("revision", "")
    return f"`{entry['repository']}`" + (f" at {revision[:12]}" if revision else "")


def _names(archives: Sequence[Archive]) -> str:
    shown = [f"`{archive.name}`" for archive in archives[:3]]
    return ", ".join(shown) + (f" and {len(archives) - 3} more" if len(archives) > 3 else "")


def _how(kind: Any) -> str:
    hosts = {archive.url.split("/")[2] for archive in kind.archives if archive.url}
    fetched = f"fetched from {', '.join(sorted(hosts))}" if hosts else ""
    return "; ".join(part for part in (fetched, kind.instructions) if part)


TIMES = """
## Time and space

Building reads every archive once for its hash and once or twice for its images; nothing but the images chosen is decoded. Measured
on synthetic archives of the true sizes, hash and audit included, by one thread of a machine with other work: cifar100 (11,000
images) 19 s and 21 MB as PNG, 18 s and 11 MB as JPEG; dsprites_location (74,728 images) 100 s and 19 MB, 57 s and 77 MB. The archives
of gigabytes (clevr, camelyon, kitti, dmlab, sun397, retinopathy) are bound by reading and downloading them; their time was not measured.
The images of train800val200 are links to those of train800 and val200 where the file system has links.
"""
