"""A study's journal: Optuna's storage in one file, which may be another's, or end in the middle of a line."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from karst_bench.errors import UserError

log = logging.getLogger(__name__)


def opened_study(file: Path, name: str, space: Mapping[str, BaseDistribution], pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """The study in a journal, or a new one; every trial of it is one of this space.

    What a killed worker wrote of a line is taken away, as Optuna would put the next line behind it. Raises: UserError for a
    journal that is no study's, or another's.
    """
    lock = JournalFileOpenLock(str(file))
    _end_line(file, lock)
    try:
        storage = JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner)
        if study.directions != [StudyDirection.MAXIMIZE]:  # no value of ours would ever count, or the worst would be the best
            raise ValueError(f"its directions are {[way.name.lower() for way in study.directions]}, not ['maximize']")
        for trial in study.get_trials(deepcopy=False):
            _check(trial, space)
    except Exception as error:  # whatever lines of others make Optuna raise
        raise UserError(
            f"{file} is no journal of this search ({type(error).__name__}: {str(error)[:160]}); move it away, and the search "
            "begins anew: finished runs of it are read, not repeated"
        ) from error
    return study


def _end_line(file: Path, lock: JournalFileOpenLock) -> None:
    if not file.exists():
        return
    lock.acquire()
    try:
        with file.open("rb+") as journal:
            data = journal.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                log.warning("%s: its last line was broken off, and is left out", file)
                journal.truncate(whole)
    finally:
        lock.release()


def _check(trial: optuna.trial.FrozenTrial, space: Mapping[str, BaseDistribution]) -> None:
    """Raises: ValueError where a trial has other parameters, values outside, or an accuracy that is none."""
    said = trial.system_attrs.get("fixed_params", {}) | trial.params
    if not said.keys() <= space.keys():
        raise ValueError(f"trial {trial.number} has {', '.join(map(str, said))[:80]}")
    for key, value in said.items():
        if not space[key]._contains(space[key].to_internal_repr(value)):
            raise ValueError(f"trial {trial.number} has {key}={str(value)[:40]}")
    if trial.state == TrialState.COMPLETE and not (isinstance(trial.value, int | float) and math.isfinite(trial.value)):
        raise ValueError(f"trial {trial.number} has the value {str(trial.value)[:40]}")
