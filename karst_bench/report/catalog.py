"""What the tables consist of: tasks, groups, shots, paper rows, and the names our methods have for them.

The single place of these lists, so that a missing cell can be named although no record speaks of it.
"""

import numpy as np

SUITES = ("vtab", "mini")
GROUPS = ("natural", "specialized", "structured")
SEEDS = (0, 1, 2)
SHOTS = (1, 2, 4, 8, 16)
SPLIT_SEEDS = (0, 1, 2)
KERNELS = (1, 2, 3, 4)

TASKS: dict[str, dict[str, tuple[str, ...]]] = {
    "vtab": {
        "natural": ("cifar100", "caltech101", "dtd", "flowers102", "pets", "svhn", "sun397"),
        "specialized": ("camelyon", "eurosat", "resisc45", "retinopathy"),
        "structured": (
            "clevr_count", "clevr_distance", "dmlab", "kitti_distance",
            "dsprites_location", "dsprites_orientation", "smallnorb_azimuth", "smallnorb_elevation",
        ),
    },
    "mini": {
        "natural": ("digits", "glyphs", "textures"),
        "specialized": ("landuse", "cells"),
        "structured": ("location", "orientation", "count", "distance"),
    },
}  # fmt: skip
FEWSHOT = {
    "vtab": ("fewshot/aircraft", "fewshot/food101", "fewshot/flowers102", "fewshot/pets", "fewshot/cars"),
    "mini": ("mini/fs_glyphs", "mini/fs_flowers"),
}
VIT = {"vtab": "vit_b16", "mini": "vit_mini"}
SWIN = {"vtab": "swin_b", "mini": "swin_mini"}

TITLES = {
    "cifar100": "Cifar100", "caltech101": "Caltech101", "dtd": "DTD", "flowers102": "Flowers102", "pets": "Pets",
    "svhn": "SVHN", "sun397": "Sun397", "camelyon": "Camelyon", "eurosat": "EuroSAT", "resisc45": "Resisc45",
    "retinopathy": "Retinopathy", "clevr_count": "Clevr-Count", "clevr_distance": "Clevr-Dist", "dmlab": "DMLab",
    "kitti_distance": "KITTI-Dist", "dsprites_location": "dSpr-Loc", "dsprites_orientation": "dSpr-Ori",
    "smallnorb_azimuth": "sNORB-Azim", "smallnorb_elevation": "sNORB-Ele", "aircraft": "FGVC-Aircraft",
    "food101": "Food101", "cars": "Stanford Cars", "fs_glyphs": "Glyphs (few-shot)", "fs_flowers": "Drawn flowers (few-shot)",
}  # fmt: skip

# Printed name in the paper -> (our name in reports, the command-line words that run it).
PAPER_METHODS: dict[str, tuple[str, str]] = {
    "Full": ("full", "method=full"),
    "Linear": ("linear", "method=linear"),
    "BitFit": ("bitfit", "method=bitfit"),
    "VPT": ("vpt_deep", "method=vpt_deep"),
    "LST": ("lst", "method=lst"),
    "LoRA": ("lora", "method=lora"),
    "AdaptFormer": ("adaptformer", "method=adaptformer"),
    "NOAH": ("noah", "method=noah"),
    "FacT": ("fact_tk", "method=fact_tk"),
    "SSF": ("ssf", "method=ssf"),
    "DTL": ("dtl", "method=dtl"),
    "HEAT": ("heat", "method=heat"),
    "GLoRA": ("glora", "method=glora"),
    "Sparse-Tuning": ("sparse_tuning", "method=sparse_tuning"),
    "KARST": ("karst", "method=karst"),
    "FacT + RST": ("fact_tk+rst_scalar", "method=fact_tk extra=rst_scalar"),
    "KA": ("ka", "method=ka"),
    "KA + RST": ("karst", "method=karst"),
}
TABLE1 = tuple(list(PAPER_METHODS)[:15])
TABLE2 = ("Full", "Linear", "BitFit", "VPT", "HEAT", "FacT", "DTL", "KARST")
TABLE3 = ("FacT", "FacT + RST", "KA", "KA + RST")
FIGURE2 = {
    "adapter_noah": "method=adapter_noah", "lora": "method=lora", "vpt_deep": "method=vpt_deep",
    "noah": "method=noah", "ssf": "method=ssf", "fact_tk": "method=fact_tk", "glora": "method=glora",
    "dtl": "method=dtl", "karst": "method=karst",
}  # fmt: skip

# The extra that a method brings by itself carries no suffix; another one, or none, does.
OWN_EXTRA = {
    "karst": "rst", "karst_block_c": "rst", "karst_swin_staged": "rst", "karst_all": "rst_all",
    "karst_scale": "rst_scale", "karst_code": "rst_scalar", "karst_code_ln": "rst_scalar",
}  # fmt: skip
# Of several settings of one method, the row without a suffix is the paper's, where the paper names one.
PAPER_SETTING = {"karst": {"N": 2, "m": 8, "r": 8}, "ka": {"N": 2, "m": 8, "r": 8}}
# Kernels are swept with m and r held at the paper's values.
FIGURE3_HELD = {"m": 8, "r": 8}


def tasks(suite: str) -> tuple[str, ...]:
    """Tasks of the suite in table order."""
    return tuple(task for group in GROUPS for task in TASKS[suite][group])


def group_of(suite: str, task: str) -> str:
    """VTAB group of a task; KeyError for a task the suite does not have."""
    return next(group for group, members in TASKS[suite].items() if task in members)


def group_weights(suite: str) -> np.ndarray:
    """Weights w_t of "Avg.", the mean of the three group means: 1 / (3 * tasks in the group)."""
    return np.array([1 / (3 * len(TASKS[suite][group])) for group in GROUPS for _ in TASKS[suite][group]])


def task_weights(suite: str) -> np.ndarray:
    """Weights of "Set Avg.", the mean over tasks: 1 / tasks."""
    count = len(tasks(suite))
    return np.full(count, 1 / count)


def title(task: str) -> str:
    """Column heading of a task."""
    return TITLES.get(task, task.replace("_", " ").capitalize())
