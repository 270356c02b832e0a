"""Quick trials by the thousand: evaluated in memory, stored many at a time, in a study like any other.

Optuna commits about twenty times a trial. Here the finished trials of a second or two go into the database together, in
one transaction: `kill -9` loses those of the last batch, and as a proposal depends only on the seed and the trials
before it, the same ones come again. No trial is ever stored unfinished. Workers that share a study notice each other
when they store: one that finds trials of others goes on with random numbers of its own, and what the others have
scored meanwhile it drops.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import orm

from .evolution import AgingEvolution, Params, identity
from .studies import Outcome, finished_trials, storage_errors

STORE_EVERY_S = 2.0


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

    Optuna has no such call, so this writes its tables: a test reads them back through Optuna.
    """
    backend = getattr(study._storage, "_backend", study._storage)
    assert isinstance(backend, RDBStorage)
    study_id = study._study_id
    with orm.Session(backend.engine) as session, session.begin():
        table = models.StudyModel.__table__
        # A write that changes nothing holds back other writers until we are done, in SQLite and in PostgreSQL.
        lock = sqlalchemy.update(table).where(table.c.study_id == study_id).values(study_name=table.c.study_name)
        session.execute(lock)
        count = sqlalchemy.select(sqlalchemy.func.count()).where(models.TrialModel.study_id == study_id)
        if session.scalar(count) != expected:
            return False
        session.add_all(_model(study_id, number, trial) for number, trial in enumerate(trials, expected))
    return True


def _model(study_id: int, number: int, trial: FrozenTrial) -> models.TrialModel:
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
