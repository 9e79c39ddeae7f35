"""`karst-bench data prepare` and `data status`: sets brought into place from archives, zips and tensorflow-datasets."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from karst_bench.config.datasets import SUITES, dataset_config, dataset_configs, dataset_members
from karst_bench.config.option_files import options
from karst_bench.data import builders
from karst_bench.errors import UserError, nearest


def chosen_sets(
    tasks: str | None, every: tuple[str, ...] = SUITES, bare: tuple[str, ...] = SUITES
) -> dict[str, dict[str, object]]:
    """{option: configuration} for tasks=all, cifar100,dtd, vtab/natural, fgvc/all, fewshot/pets, ...

    every: the suites that `all` and nothing stand for. bare: the suites in which a name without its suite is looked up.
    Raises: UserError for a name that is none of them.
    """
    if tasks in (None, "", "all"):
        return dataset_configs(every)
    found: dict[str, dict[str, object]] = {}
    for name in str(tasks).split(","):
        if name.startswith("mini/"):
            raise UserError(f"tasks={name}: the mini sets are part of the suite and take no preparation")
        members = dataset_members(name)
        found |= {option: dataset_config(option) for option in (_named(name, bare) if members == [name] else members)}
    return found


def _named(name: str, bare: tuple[str, ...]) -> list[str]:
    """The options that a name means: itself, those with it as their last part, else those whose folder it is."""
    known = [option for option in options("dataset") if option.partition("/")[0] in SUITES or _of_plugin(option)]
    if name in known:
        return [name]
    members = [f"{suite}/{name}" for suite in bare if f"{suite}/{name}" in known]
    members = members or [option for option, config in dataset_configs(bare).items() if config["folder"] == name]
    if not members:
        near = nearest(name, [*known, *(option.rpartition("/")[2] for option in known)])
        raise UserError(f"tasks={name}: no such set{near} (choose from {', '.join(known)})")
    return members


def _of_plugin(option: str) -> bool:
    """Whether an option of another folder is a set that lies as one of the suites' does."""
    return "/" in option and dataset_config(option).get("suite") in SUITES


def prepare_sets(
    root: Path,
    tasks: str | None = None,
    *,
    source: str = "raw",
    encoding: str = "png",
    archive: str | None = None,
    lists: Path | None = None,
    to: str | None = None,
    verify: bool = True,
) -> int:
    """Brings the chosen sets into place and prints one line for each; 0 where all are ready, else 1. Raises: UserError."""
    done = builders.prepare_data(
        chosen_sets(tasks, ("vtab",), ("vtab", "fgvc")), source, root, encoding, archive, to=to, lists=lists, verify=verify
    )
    for item in done:
        print(f"{item.option}: {item.text.removeprefix(item.option + ': ')}")
    ready = sum(item.ready for item in done)
    print(f"{ready} of {len(done)} sets are ready")
    return 0 if ready == len(done) else 1


def sets_status(root: Path, tasks: str | None = None) -> int:
    """Prints what is here of each set, from where, audited when; 0 where every chosen set is here, else 1."""
    lines = builders.status(chosen_sets(tasks), root)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table("set", "dataset.source", "from", "encoding", "audited", "folder")
    for line in lines:
        audited = (line.audited or "never") if line.source else ""
        table.add_row(line.option, line.source or "not here", line.origin, line.encoding, audited, line.home)
    console.print(table)
    for line in lines:
        if line.source and line.text:
            console.print(f"{line.option}: {line.text}", markup=False)
    absent = [line.option for line in lines if not line.source]
    placed = [option for option in absent if option.startswith("fewshot/")]
    for command, wanted in (("prepare", [name for name in absent if name not in placed]), ("fewshot", placed)):
        if wanted:
            text = f"to have the rest: karst-bench data {command} tasks={','.join(wanted)} root={root}"
            console.print(text, markup=False, soft_wrap=True)
    return 1 if absent else 0
