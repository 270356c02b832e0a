"""Quick trials by the thousand: evaluated in memory, stored many at a time, in a study like any other.

Optuna commits about twenty times a trial. Here the finished trials of a second or two go into the database together, in
one transaction: `kill -9` loses those of the last batch, and as a proposal depends only on the seed and the trials
before it, the same ones come again. No trial is ever stored unfinished. Workers that share a study notice each other
when they store: one that finds trials of others goes on with random numbers of its own, and what the others have
scored meanwhile it drops.

Optuna has no call for that, so this writes Optuna's tables, whose classes are private. Where an installed Optuna has
other tables than those known here, trials are stored one by one through its public interface: more slowly, and two
workers that store at the same moment may take a study past its total.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import orm

from ..studies import Outcome, finished_trials, storage_errors
from .evolution import AgingEvolution, Params, identity

STORE_EVERY_S = 2.0
_COLUMNS = {
    "StudyModel": {"study_id", "study_name"},
    "TrialModel": {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
    "TrialParamModel": {"param_id", "trial_id", "param_name", "param_value", "distribution_json"},
    "TrialValueModel": {"trial_value_id", "trial_id", "objective", "value", "value_type"},
    "TrialUserAttributeModel": {"trial_user_attribute_id", "trial_id", "key", "value_json"},
}
"""Optuna's tables as they have been since its version 3.0."""


def run_batches(
    study: Study,
    sampler: AgingEvolution,
    evaluate: Callable[[Params], Outcome],
    total: int,
    on_trial: Callable[[int], None] = lambda _: None,
) -> None:
    """Evaluate until the study has `total` finished trials, those of earlier sittings and other workers included."""
    worker = _Worker(study, sampler)
    on_trial(worker.done)
    stored_at = time.monotonic()
    try:
        while worker.done < total:
            worker.step(evaluate)
            on_trial(worker.done)
            if time.monotonic() - stored_at > STORE_EVERY_S or worker.done >= total:
                worker.store(total)
                stored_at = time.monotonic()
    finally:
        worker.store(total)


class _Worker:
    """The trials that are stored, and those that are about to be."""

    def __init__(self, study: Study, sampler: AgingEvolution) -> None:
        self.study = study
        self.sampler = sampler
        self.distributions = dict(sampler.domain.distributions)
        self.stream: tuple[int, ...] = ()
        self.pending: list[FrozenTrial] = []
        self._read()

    @property
    def done(self) -> int:
        return len(self.finished)

    def step(self, evaluate: Callable[[Params], Outcome]) -> None:
        """Propose and evaluate one individual."""
        number = self.stored + len(self.pending)
        params = self.sampler.propose(number, self.finished, self.known, self.stream)
        started = datetime.now(UTC).replace(tzinfo=None)
        outcome = evaluate(params)
        trial = create_trial(
            values=list(outcome.values),
            params=params,
            distributions=self.distributions,
            user_attrs=dict(outcome.attributes),
        )
        trial.datetime_start, trial.number = started, number
        trial.datetime_complete = datetime.now(UTC).replace(tzinfo=None)
        self.pending.append(trial)
        self.finished.append(trial)
        self.known.add(identity(params))

    def store(self, total: int) -> None:
        """Write what is pending, less what other workers made needless."""
        with storage_errors(self.study.study_name):
            while self.pending and not add_finished_trials(self.study, self.pending, self.stored):
                mine = self.pending
                self._read()
                self.stream = tuple(np.random.SeedSequence().generate_state(2).tolist())
                new = [trial for trial in mine if identity(trial.params) not in self.known]
                self.pending = new[: max(0, total - self.done)]
                self.finished += self.pending
                self.known.update(identity(trial.params) for trial in self.pending)
                for number, trial in enumerate(self.pending, self.stored):
                    trial.number = number
            self.stored += len(self.pending)
            self.pending = []

    def _read(self) -> None:
        with storage_errors(self.study.study_name):
            trials = self.study.get_trials(deepcopy=False)
            self.stored = len(trials)
            self.finished = list(finished_trials(self.study))
        self.known = {identity(trial.params) for trial in trials if trial.params}


def add_finished_trials(study: Study, trials: Sequence[FrozenTrial], expected: int) -> bool:
    """Append finished trials to a study that has `expected` trials, in one transaction; False, and nothing is
    written, where it has another number of them by now.

    In several transactions where the tables are not those of `_COLUMNS`.
    """
    backend = getattr(study._storage, "_backend", study._storage)
    models = _models()
    if models is None or not isinstance(backend, RDBStorage):
        if len(study.get_trials(deepcopy=False)) != expected:
            return False
        study.add_trials(trials)
        return True
    study_id = study._study_id
    with orm.Session(backend.engine) as session, session.begin():
        table = models.StudyModel.__table__
        # A write that changes nothing holds back other writers until we are done, in SQLite and in PostgreSQL.
        lock = sqlalchemy.update(table).where(table.c.study_id == study_id).values(study_name=table.c.study_name)
        session.execute(lock)
        count = sqlalchemy.select(sqlalchemy.func.count()).where(models.TrialModel.study_id == study_id)
        if session.scalar(count) != expected:
            return False
        session.add_all(_model(models, study_id, number, trial) for number, trial in enumerate(trials, expected))
    return True


@cache
def _models() -> Any:
    """The module of Optuna's tables, None where it is not there or they have other columns."""
    try:
        models = importlib.import_module("optuna.storages._rdb.models")
        found = {name: {column.name for column in getattr(models, name).__table__.columns} for name in _COLUMNS}
    except (ImportError, AttributeError):
        return None
    return models if found == _COLUMNS and hasattr(models.TrialValueModel, "value_to_stored_repr") else None


def _model(models: Any, study_id: int, number: int, trial: FrozenTrial) -> Any:
    stored = models.TrialModel(
        study_id=study_id,
        number=number,
        state=TrialState.COMPLETE,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
    )
    stored.params = [
        models.TrialParamModel(
            param_name=name,
            param_value=trial.distributions[name].to_internal_repr(value),
            distribution_json=distribution_to_json(trial.distributions[name]),
        )
        for name, value in trial.params.items()
    ]
    for objective, value in enumerate(trial.values):
        number_, kind = models.TrialValueModel.value_to_stored_repr(value)
        stored.values.append(models.TrialValueModel(objective=objective, value=number_, value_type=kind))
    stored.user_attributes = [
        models.TrialUserAttributeModel(key=key, value_json=json.dumps(value)) for key, value in trial.user_attrs.items()
    ]
    return stored
