"""docs/recipes.md and docs/closeness.md: python scripts/docs_recipes.py

Recipes come from conf/, what the papers' trainers do from results/paper/training.csv, what is checked of each method from
results/paper/closeness.csv and from the methods themselves.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tabulate import tabulate

from karst_bench import files
from karst_bench.cli.app import generator
from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import option_config, options
from karst_bench.config.settings import Settings, recipe_of
from karst_bench.engine.recipe import Recipe
from karst_bench.engine.schedule import epoch_rates, moves_per_step

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"recipes": ROOT / "docs" / "recipes.md", "closeness": ROOT / "docs" / "closeness.md"}
FACTS = ROOT / "results" / "paper"
EXAMPLES = {"vtab": ("dataset=vtab/cifar100",), "fewshot": ("dataset=fewshot/pets", "dataset.shots=1")}
MEANS = {(0.5, 0.5, 0.5): "half", (0.485, 0.456, 0.406): "imagenet"}
REPORTED = {"last": "last epoch", "peek10": "last epoch; peak of 10 looks at the test set", "best_val": "best of 10 looks at val"}
EPOCHS = (0, 1, 2, 10, 11, 50)
INTRO = """# Recipes

How a run trains: `recipe=` names one of these files of `conf/recipe/`, a method's or dataset's own default otherwise. Written by
`python scripts/docs_recipes.py` from `conf/` and `results/paper/training.csv`.

`petl100` and the `mini` recipes are this suite's own, the same for every method, so that rows can be compared; `fs_dtl` is its
default on few-shot sets. The others are what papers' published trainers do, read in their repositories; `tuned=paper` puts
a method into its own paper's whole setting (below). Two fields are this suite's throughout: arithmetic (`precision=bf16`
unless a recipe for small machines says fp32) and seeds.

With T the cosine's length, w the warm-up, s and f its start and floor, t = max(e - lag, 0) in epoch e (counted from 0):
t < w: s + t (lr - s) / w; then f + (lr - f) (1 + cos(pi t / T)) / 2 up to T; then f. *shifted*: the cosine runs from w to T.
*reaches*: the warm-up divides by w - 1, so that its last epoch is at lr. Runs under 50 epochs move the rate at every step.
"""
SETTINGS = """## `tuned=paper` beside the papers

One resolved configuration of each table of `conf/tuned/paper/`, field by field, beside what the published trainer does. A field
that differs says why. What the command line names wins over the table, and the run says so; a dataset or method without an
entry is said at the start, in `dry_run=true` and in the record.
"""
CLOSENESS = """# How close is each row to its paper

What was checked of each method, and how; *not checked* means that no test or comparison in this repository says so.
Written by `python scripts/docs_recipes.py`.

Names are test functions below `tests/methods/`; `results/paper/closeness.csv` has their files.

- **Forward**: a test computes the method's map from its equation, or with another library, apart from this package.
- **Start**: `test_every_method.py::test_start` finds the unadapted model where the method claims it. From which distribution
  values are drawn is checked where a test is named.
- **Training**: modules that draw have 2000 draws and gradients at a fixed draw compared with the equation
  (`test_training_draws.py`); a method without one is trained like any other, gradients by autograd.
- **Recipe**: [recipes.md](recipes.md) compares one configuration with the published trainer, field by field; the values per
  task of FacT, SSF and DTL (133 rows) were compared with the sources' scripts by program, the others copied from them by hand.
- **Weights**: ViT-B/16 of `orig_in21k` and Swin-B of `ms_in22k`, by timm's names. No published checkpoint was compared with them
  byte by byte, for any row. SSF's are others (`backbone=vit_b16_augreg`), in its own setting alone.
- **Data**: the few-shot sets' lists and, where one is known, VTAB-1K's archives are held to a SHA-256
  ([data_sources.md](data_sources.md)); that a published run read the same pixels is not checked for any row.

No row has been compared with its paper's accuracy here: that takes a GPU and the data sets (`karst-bench run sweep=table1`).
"""


def main() -> None:
    """Write both pages."""
    for name, render in (("recipes", recipes_page), ("closeness", closeness_page)):
        files.write(PAGES[name], render().encode(), once=False)
        print(f"wrote {PAGES[name].relative_to(ROOT)}")


def recipes_page() -> str:
    """docs/recipes.md."""
    found = {name: _recipe(name) for name in options("recipe")}
    lines = [INTRO, "## Values", "", _values(found), "", "## Learning rate of an epoch", "", _rates(found), "", SETTINGS]
    for table, suite in dict.fromkeys((fact["table"], fact["suite"]) for fact in published()):
        lines += [*setting_section(table, suite), ""]
    return "\n".join(lines)


@cache
def published() -> list[dict[str, str]]:
    """results/paper/training.csv: table, suite, field, value, why (it differs), source."""
    with (FACTS / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _recipe(name: str) -> Recipe:
    return recipe_of(settings_of([f"recipe={name}"]).as_config()["recipe"])


def _markdown(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _values(found: Mapping[str, Recipe]) -> str:
    headers = ["recipe", "optimiser", "lr", "wd", "1-D decayed", "batch", "last batch", "epochs", "warm-up", "start", "floor",
               "lag", "cosine", "drop-path", "augmentation"]  # fmt: skip
    rows = []
    for name, r in found.items():
        length = round(r.epochs / (1 + r.cooldown))
        cosine = ", ".join(word for word, on in (("shifted", r.cosine_after_warmup), ("reaches", r.warmup_reaches_lr)) if on)
        lag = "per step" if moves_per_step(r) else str(r.lag)
        rows.append([f"`{name}`", r.optimiser, f"{r.lr:g}", f"{r.wd:g}", r.decay_1d.replace("_", " "), str(r.batch),
                     "left out" if r.drop_last else "kept", f"{r.epochs}" + (f" (T {length})" if r.cooldown else ""),
                     f"{round(r.warmup * length)}", f"{r.warmup_lr:g}", f"{r.min_lr:g}", lag, cosine or "from 0",
                     f"{r.drop_path:g}", r.augment])  # fmt: skip
    return _markdown(rows, headers)


def _rates(found: Mapping[str, Recipe]) -> str:
    rows = []
    for name, r in found.items():
        if not moves_per_step(r):
            rates = epoch_rates(r)
            rows.append([f"`{name}`", *(f"{rates[e]:.4g}" for e in EPOCHS), f"{rates[-1]:.4g} (e{r.epochs - 1})"])
    return _markdown(rows, ["recipe", *(f"e{e}" for e in EPOCHS), "last"])


def setting_section(table: str, suite: str) -> list[str]:
    """One table on one suite: the command, what the run says, ours and theirs."""
    facts = [fact for fact in published() if (fact["table"], fact["suite"]) == (table, suite)]
    words = [f"method={table}", *EXAMPLES[suite], "tuned=paper"]
    settings = settings_of(words)
    rows = [[fact["field"], ours(settings, fact["field"]), fact["value"], difference(settings, fact)] for fact in facts]
    lines = [f"### {settings.method['about']['title']}, {'VTAB-1K' if suite == 'vtab' else 'few-shot'}", "", "```text",
             f"python run.py {' '.join(words)}", "```", "", f"Published: {facts[0]['source']}."]  # fmt: skip
    lines += [f"The run says: {line}." for line in settings.tuned["said"]]
    return [*lines, "", _markdown(rows, ["field", "here", "published", "difference"])]


def ours(settings: Settings, field: str) -> str:
    """The value of a field of training.csv in a resolved configuration."""
    recipe = settings.recipe
    derived: dict[str, Any] = {
        "weights": settings.backbone["timm_name"],
        "means": settings.normalization,
        "warmup_epochs": round(recipe.warmup * round(recipe.epochs / (1 + recipe.cooldown))),
        "reported": REPORTED[settings.protocol["name"]],
        "seeds": "0, 1, 2",
    }
    if settings.normalization == "model":
        derived["means"] = MEANS[tuple(settings.backbone["mean"])]
    if field in derived:
        return str(derived[field])
    config = OmegaConf.create(settings.as_config())
    value = OmegaConf.select(config, field if "." in field else f"recipe.{field}", throw_on_missing=True)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def difference(settings: Settings, fact: Mapping[str, str]) -> str:
    """Empty where both values are one; else why they are not.

    Raises: ValueError for a difference without a reason, or a reason without a difference.
    """
    same = _canonical(ours(settings, fact["field"])) == _canonical(fact["value"])
    if same == bool(fact["why"]):
        raise ValueError(f"{fact['table']} {fact['suite']} {fact['field']}: {ours(settings, fact['field'])!r} here, "
                         f"{fact['value']!r} published, reason {fact['why']!r}")  # fmt: skip
    return fact["why"]


def _canonical(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def closeness() -> Iterator[dict[str, str]]:
    """results/paper/closeness.csv: method, forward, start, training (tests by name, or nothing)."""
    with (FACTS / "closeness.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def closeness_page() -> str:
    """docs/closeness.md."""
    compared = {fact["table"] for fact in published()}
    rows = []
    for row in closeness():
        option = option_config("method", row["method"])
        about = option.get("method", option)["about"]  # a file that sets its recipe too holds the method as one of its nodes
        recipe = "compared field by field" if row["method"] in compared else "not checked"
        checks = (_tests(row[key]) for key in ("forward", "start", "training"))
        rows.append([f"`{row['method']}`", about["title"], *checks, recipe, "by name", "lists"])
    headers = ["method", "title", "forward", "start", "training", "recipe", "weights", "data"]
    return "\n".join([CLOSENESS, _markdown(rows, headers), ""])


def _tests(cell: str) -> str:
    """`file.py::test_name; words` as the names of the functions; not checked where there is nothing."""
    shown = [re.sub(r"test_\w+\.py::(?:\w+::)?(\w+)", r"`\1`", part.strip()) for part in cell.split(";") if part.strip()]
    return ", ".join(shown) or "not checked"


if __name__ == "__main__":
    generator(main)
