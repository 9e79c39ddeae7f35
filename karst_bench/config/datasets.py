"""The dataset configurations of conf/ as plain dicts, for whatever goes through all sets (a run gets its own from Hydra)."""

from typing import Any

from karst_bench.config.option_files import option_config, options
from karst_bench.errors import UserError

SUITES = ("vtab", "fewshot", "fgvc")
TASK_GROUPS = ("natural", "specialized", "structured", "fewshot", "fgvc")


def dataset_config(option: str) -> dict[str, Any]:
    """conf/dataset/<option>.yaml with its bases. Raises: UserError if there is no such option."""
    return option_config("dataset", option)


def dataset_configs(suites: tuple[str, ...] = SUITES) -> dict[str, dict[str, Any]]:
    """{option: configuration} of the suites, each in the order of its tables (the key `order`)."""
    names = [option for suite in suites for option in options("dataset") if option.startswith(f"{suite}/")]
    found = {name: dataset_config(name) for name in names}
    return dict(sorted(found.items(), key=lambda item: (suites.index(item[1]["suite"]), item[1]["order"])))


def dataset_members(name: str) -> list[str]:
    """The options behind vtab/all, vtab/natural, mini/all (few-shot sets apart), fewshot/all, ... in table order; else [name].

    Raises: UserError for a group that the folder does not have.
    """
    folder, _, group = name.partition("/")
    if group not in ("all", *TASK_GROUPS):
        return [name]
    known = {option: dataset_config(option) for option in options("dataset") if option.startswith(f"{folder}/")}
    every = (folder,) if folder in TASK_GROUPS else TASK_GROUPS[:3]
    wanted = every if group == "all" else (group,)
    found = [option for option, config in known.items() if config.get("group") in wanted]
    if not found:
        raise UserError(f"dataset={name} would launch 0 jobs: {folder} has no such task group; try {folder}/all")
    groups = {option: TASK_GROUPS.index(known[option]["group"]) for option in found}
    return sorted(found, key=lambda option: (groups[option], known[option].get("order", len(known)), option))


def choose(names: str | None, suites: tuple[str, ...] = SUITES) -> dict[str, dict[str, Any]]:
    """The configurations that `task=a,b` names, by option (vtab/pets) or by last part (pets: both); all for None.

    Raises: UserError for a name that is none of them.
    """
    known = dataset_configs(suites)
    if names is None:
        return known
    chosen: dict[str, dict[str, Any]] = {}
    for name in names.split(","):
        fitting = {option: found for option, found in known.items() if name in (option, found["task"], found["folder"])}
        if not fitting:
            raise UserError(f"task={name}: no such set; choose from {', '.join(known)}")
        chosen |= fitting
    return chosen
