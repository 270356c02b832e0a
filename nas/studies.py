"""Studies that outlive their process: resumed by name, one trial at a time, nothing lost, nothing repeated."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
import psutil
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..errors import NotFound, StorageError

_WORKER = "worker"
_CLOCK_SLACK_S = 3.0
_OPENING_ATTEMPTS = 10


@dataclass(frozen=True)
class Outcome:
    """Result of one trial: its objective values, and whatever shall be kept beside them (JSON values).

    `violations`: by how much each constraint is missed, in any unit; 0 or less where it is met.
    """

    values: Sequence[float]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)


def open_study(url: str, name: str, directions: Sequence[str], sampler: BaseSampler) -> Study:
    """The study of that name, created if new; trials that a dead process left unfinished are queued again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with storage_errors(_shown(url)):
        study = optuna.create_study(
            storage=_storage(url),
            study_name=name,
            directions=[StudyDirection[d.upper()] for d in directions],
            sampler=sampler,
            load_if_exists=True,
        )
        _requeue_interrupted(study)
    return study


def load_study(url: str, name: str) -> Study:
    """An existing study, for reading; raises NotFound."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with storage_errors(_shown(url)):
        try:
            return optuna.load_study(study_name=name, storage=_storage(url))
        except KeyError:
            raise NotFound(f"There is no study named '{name}'.", "milliseek show lists the studies.") from None


def delete_study(url: str, name: str) -> None:
    """Remove an existing study and its trials."""
    with storage_errors(_shown(url)):
        optuna.delete_study(study_name=name, storage=_storage(url))


def finished_trials(study: Study) -> list[FrozenTrial]:
    """Finished trials, oldest first."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def run_trials(
    study: Study,
    distributions: Mapping[str, BaseDistribution],
    evaluate: Callable[[dict[str, Any]], Outcome],
    total: int,
    on_trial: Callable[[int], None] = lambda _: None,
    stop: Callable[[int], bool] = lambda _: False,
) -> None:
    """Evaluate until the study has `total` finished trials, or `stop(number)`.

    Those of earlier sittings and of other workers count; of n workers each may add one more at the end.
    """
    done = len(finished_trials(study))
    on_trial(done)
    while done < total and not stop(done):
        with storage_errors(study.study_name):
            trial = study.ask(dict(distributions))
        outcome = evaluate(dict(trial.params))
        with storage_errors(study.study_name):
            for key, value in outcome.attributes.items():
                trial.set_user_attr(key, value)
            for key, value in outcome.violations.items():
                trial.set_constraint(key, value)
            study.tell(trial, list(outcome.values))
            done = len(finished_trials(study))
        on_trial(done)


def _requeue_interrupted(study: Study) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_alive(trial.user_attrs.get(_WORKER)):
            continue
        study.tell(trial.number, state=TrialState.FAIL)
        # A trial that was queued again once and interrupted before it started has its parameters only here.
        if params := trial.params or trial.system_attrs.get("fixed_params"):
            study.enqueue_trial(params)


def _this_worker() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _is_alive(worker: dict[str, Any] | None) -> bool:
    if worker is None:
        return False
    if worker["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(worker["pid"])
        # The start is told by the wall clock, which may have been set right in the meantime.
        same = abs(process.create_time() - worker["started"]) < _CLOCK_SLACK_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class _SignedStorage(optuna.storages.RDBStorage):
    """Trials carry their worker from the moment at which they run: nobody takes one for abandoned in between."""

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is None:
            template_trial = create_trial(state=TrialState.RUNNING, user_attrs={_WORKER: _this_worker()})
        return super()._create_new_trial(study_id, template_trial)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; a trial that was waiting is signed before it runs, and again by the one that got it."""
        if state is TrialState.RUNNING:
            self.set_trial_user_attr(trial_id, _WORKER, _this_worker())
        changed = super().set_trial_state_values(trial_id, state, values)
        if state is TrialState.RUNNING and changed:
            self.set_trial_user_attr(trial_id, _WORKER, _this_worker())
        return changed


def _storage(url: str) -> optuna.storages.RDBStorage:
    sqlite = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 30}} if sqlite else {}
    for attempt in range(_OPENING_ATTEMPTS):
        try:
            storage = _SignedStorage(url, engine_kwargs=options)
            break
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
            # Another worker makes Optuna's tables at the same time: the next attempt finds those that it made.
            if attempt == _OPENING_ATTEMPTS - 1:
                raise
    if sqlite:
        # Optuna commits twenty times a trial. In WAL mode, which the database is in, a commit then survives the
        # process without waiting for the disk.
        storage.engine.dispose()
        sqlalchemy.event.listen(storage.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous = NORMAL"))
    return storage


@contextmanager
def storage_errors(name: str) -> Iterator[None]:
    """Raises StorageError for what fails in a study's database.

    Optuna wraps the driver's errors in its own, except while it opens a database; a user needs the cause.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error if isinstance(error, sqlalchemy.exc.SQLAlchemyError) else error.__cause__ or error.__context__
        reason = getattr(cause, "orig", None) or cause or error  # SQLAlchemy adds the statement and a link
        raise StorageError(
            f"The study database {name} failed: {reason}.", "Free some space or check its folder."
        ) from error


def _shown(url: str) -> str:
    """The URL without its password."""
    return sqlalchemy.make_url(url).render_as_string(hide_password=True)
