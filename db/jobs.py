"""The durable queue of jobs: submitted, leased to devices, and ended exactly once.

    queued -> leased -> done | failed | cancelled,    leased -> queued    when it expires, fails or is given back

A device holds a job under a lease, a random name that stays on the job until there is a new one. Whoever answers under
it is heard while nobody else holds the job, so a device that was cut off loses no work, and nothing is stored twice.
Every function locks the rows that it decides on, so any number of servers may share a database.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy.orm import Session

from ..errors import InvalidInput, NotFound
from .artefacts import forget_artefact
from .columns import utc_now
from .conflicts import chunked, insert_missing
from .models import Device, Job
from .turns import last_turns, record_turns, take_turns

JobKind = Literal["measure", "optimise", "shapes"]
JobState = Literal["queued", "leased", "done", "failed", "cancelled"]
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")

_Key = tuple[str, str]


@dataclass(frozen=True)
class NewJob:
    """What is to be done: `kind` with the model file `payload_sha256` (a recorded artefact) on `device`.

    `device` is a device's name or its model. `key` is the submitter's own name for the job, unique for each `user`.
    The job is begun at most `max_tries` times, each for at most `time_limit_s` seconds.
    """

    key: str
    target: str
    device: str
    kind: JobKind
    options: dict[str, Any]
    payload_sha256: str
    payload_bytes: int
    user: str = ""
    priority: int = 0
    max_tries: int = 3
    time_limit_s: float = 60.0


def submit_jobs(session: Session, jobs: Sequence[NewJob]) -> list[Job]:
    """The jobs in the order given, inserted where their user and key are new, else as they are now.

    InvalidInput, and nothing is inserted, if a key is known with another content.
    """
    wanted: dict[_Key, dict[str, Any]] = {}
    for job in jobs:
        content = asdict(replace(job, options=json.loads(json.dumps(job.options))))  # as it will be read again
        if wanted.setdefault((job.user, job.key), content) != content:
            raise _other_content(job.key)

    def find(keys: Sequence[_Key]) -> dict[_Key, int]:
        ids: dict[_Key, int] = {}
        for user in {user for user, _ in keys}:
            for part in chunked([key for owner, key in keys if owner == user]):
                query = select(Job.key, Job.id).where(Job.user == user, Job.key.in_(part))
                query = query.with_for_update(read=True, key_share=True)  # nobody deletes them meanwhile
                ids.update({(user, key): id_ for key, id_ in session.execute(query)})
        return ids

    ids = insert_missing(session, Job, wanted, find)
    rows = {(row.user, row.key): row for row in get_jobs(session, list(ids.values()))}
    for key, content in wanted.items():
        if any(getattr(rows[key], name) != value for name, value in content.items()):
            raise _other_content(key[1])
    return [rows[job.user, job.key] for job in jobs]


def lease_jobs(session: Session, device: str, count: int, lease_s: float, *, now: datetime | None = None) -> list[Job]:
    """Hand at most `count` jobs to the device of this name, each under a lease of its own for `lease_s` seconds.

    Takes what was asked of its name or of its model; nothing if it is unknown, draining or removed. The highest
    priority goes first, then the user whom this device served least recently, then the oldest job.
    """
    row = session.scalars(select(Device).where(Device.name == device, Device.state == "active")).one_or_none()
    if row is None:
        return []
    names = {row.name, row.model or row.name}
    now = now or utc_now()
    leased: list[Job] = []
    passed: set[int] = set()
    while (wanted := count - len(leased)) > 0:
        chosen = _next_in_line(session, device, names, wanted, passed)
        query = select(Job).where(Job.id.in_(chosen), Job.state == "queued")
        free = {job.id: job for job in _locked(session, query, skip_locked=True)}
        taken = [free[id_] for id_ in chosen if id_ in free]
        for job, turn in zip(taken, record_turns(session, device, [job.user for job in taken]), strict=True):
            job.state, job.tries, job.turn = "leased", job.tries + 1, turn
            job.lease, job.lease_device, job.lease_s = secrets.token_hex(16), device, lease_s
            job.lease_expires_at = now + timedelta(seconds=lease_s)
        session.flush()
        leased += taken
        if len(chosen) < wanted:
            break
        passed.update(chosen)  # what another server was faster to take
    return leased


def extend_leases(
    session: Session, device: str, leases: Collection[str], lease_s: float, *, now: datetime | None = None
) -> list[str]:
    """Prolong what the device says it holds to `lease_s` seconds from now; returns the leases that hold no more.

    A job that went back to the queue meanwhile is the device's again, if nobody else has it: it is at work on it.
    """
    now = now or utc_now()
    held = {job.lease: job for job in _answerable(session, device, leases)}
    for job in held.values():
        job.state, job.lease_s, job.lease_expires_at = "leased", lease_s, now + timedelta(seconds=lease_s)
    session.flush()
    return [lease for lease in leases if lease not in held]


def complete_job(
    session: Session,
    lease: str,
    device: str,
    result: dict[str, Any],
    result_sha256: str | None,
    *,
    now: datetime | None = None,
) -> bool:
    """Store the one result of a job; `result_sha256` names the recorded artefact that belongs to it, if any.

    False, and nothing changes, if the job has ended or is somebody else's by now. A late answer is taken while nobody
    else holds the job.
    """
    for job in _answerable(session, device, [lease]):
        job.result, job.result_sha256 = result, result_sha256
        _end(job, "done", now or utc_now())
        session.flush()
        return True
    return False


def fail_job(
    session: Session, lease: str, device: str, reason: str, *, retry: bool, now: datetime | None = None
) -> None:
    """Note that a try failed: back to the queue, or failed for good if it need not be retried or was the last try.

    Does nothing unless the device holds the job under this lease.
    """
    for job in _answerable(session, device, [lease]):
        if job.state == "leased":
            _return(job, reason, now or utc_now(), retry=retry)
    session.flush()


def release_leases(session: Session, device: str, leases: Collection[str] | None = None) -> int:
    """Give back unbegun jobs, all that the device holds or those of `leases`; they do not count as tried."""
    query = select(Job).where(Job.state == "leased", Job.lease_device == device)
    if leases is not None:
        query = query.where(Job.lease.in_(leases))
    held = _locked(session, query)
    for job in held:
        job.state, job.tries = "queued", max(job.tries - 1, 0)
    session.flush()
    return len(held)


def expire_leases(session: Session, *, now: datetime | None = None) -> int:
    """Take back all jobs whose devices gave no sign of life in time; returns how many.

    A device works in the order in which it was handed its jobs, so of those that expire together only the first
    counts as tried: an innocent job survives any number of unplugged devices, and one that brings its device down
    is set aside after `max_tries`. A lease that ends later than it could, because the clock was set back, has
    expired too; the clocks of two servers may differ by the length of a lease.
    """
    now = now or utc_now()
    leased = Job.state == "leased"
    shortest = session.scalar(select(func.min(Job.lease_s)).where(leased))
    if shortest is None:
        return 0
    ahead = now + 2 * timedelta(seconds=shortest)
    query = select(Job).where(leased, or_(Job.lease_expires_at <= now, Job.lease_expires_at > ahead))
    begun: set[str | None] = set()
    expired = [job for job in _locked(session, query, skip_locked=True) if _has_expired(job, now)]
    for job in sorted(expired, key=lambda job: job.turn or 0):
        if job.lease_device in begun:
            job.state, job.tries = "queued", max(job.tries - 1, 0)
        else:
            begun.add(job.lease_device)
            _return(job, f"The device '{job.lease_device}' was lost while it worked on this.", now)
    session.flush()
    return len(expired)


def cancel_jobs(session: Session, ids: Sequence[int], *, now: datetime | None = None) -> list[Job]:
    """Cancel those that have not ended; returns all of them as `get_jobs` does."""
    for part in chunked(ids):
        for job in _locked(session, select(Job).where(Job.id.in_(part), Job.state.not_in(ENDED))):
            _end(job, "cancelled", now or utc_now())
    session.flush()
    return get_jobs(session, ids)


def get_jobs(session: Session, ids: Sequence[int]) -> list[Job]:
    """The jobs with these ids, in this order; NotFound if one is missing."""
    jobs: dict[int, Job] = {}
    for part in chunked(ids):
        jobs.update((job.id, job) for job in session.scalars(_fresh(select(Job).where(Job.id.in_(part)))))
    if missing := [id_ for id_ in ids if id_ not in jobs]:
        raise NotFound(
            f"There is no job {missing[0]} here.", "Jobs that ended are forgotten after a while; submit it again."
        )
    return [jobs[id_] for id_ in ids]


def list_jobs(
    session: Session,
    *,
    target: str | None = None,
    state: JobState | None = None,
    after_id: int = 0,
    limit: int = 100,
) -> list[Job]:
    """The next `limit` jobs after the one with `after_id`, the oldest first."""
    query = select(Job).where(Job.id > after_id).order_by(Job.id).limit(limit)
    if target is not None:
        query = query.where(Job.target == target)
    if state is not None:
        query = query.where(Job.state == state)
    return list(session.scalars(_fresh(query)))


def queued_devices(session: Session) -> set[str]:
    """The names and models for which a job waits: one look into an index for each, however many jobs there are."""
    first = select(func.min(Job.device).label("device")).where(Job.state == "queued")
    seen = first.cte("seen", recursive=True)
    after = select(func.min(Job.device)).where(Job.state == "queued", Job.device > seen.c.device).correlate(seen)
    seen = seen.union_all(select(after.scalar_subquery()).where(seen.c.device.is_not(None)))
    return {device for device in session.scalars(select(seen.c.device)) if device is not None}


def delete_ended(session: Session, before: datetime) -> list[str]:
    """Forget jobs that ended before this moment, and the artefacts that nothing else uses; returns their SHA-256.

    Their files are the caller's to discard in the same session, see `ArtefactStore.discard`.
    """
    return _delete(session, Job.ended_at < before)


def delete_jobs(session: Session, ids: Sequence[int]) -> list[str]:
    """The same for those of these jobs that have ended: whoever asked has their results."""
    return _delete(session, Job.id.in_(ids))


def _delete(session: Session, which: ColumnElement[bool]) -> list[str]:
    query = select(Job.id, Job.payload_sha256, Job.result_sha256).where(Job.state.in_(ENDED), which)
    ended = session.execute(query).all()
    for part in chunked([id_ for id_, _, _ in ended]):
        session.execute(delete(Job).where(Job.id.in_(part)), execution_options={"synchronize_session": False})
    used = {sha256 for _, *both in ended for sha256 in both if sha256 is not None}
    return [sha256 for sha256 in sorted(used) if forget_artefact(session, sha256)]


def abandon_device(session: Session, device: str, orphaned: Collection[str], *, now: datetime | None = None) -> None:
    """Take everything from a removed device, whose answers are not heard any more.

    What was asked of a name or model that is `orphaned`, served by no device any more, fails; the rest is queued.
    """
    theirs = or_(Job.lease_device == device, Job.device.in_(orphaned))
    for job in _locked(session, select(Job).where(Job.state.not_in(ENDED), theirs)):
        job.state, job.lease = "queued", None
        if job.device in orphaned:
            job.failure = f"The device '{device}' was removed."
            _end(job, "failed", now or utc_now())
    session.flush()


def _next_in_line(session: Session, device: str, names: Collection[str], count: int, passed: set[int]) -> list[int]:
    queued = (Job.state == "queued", Job.device.in_(names), Job.id.not_in(passed))
    waiting: dict[str, list[tuple[int, int]]] = {}
    for user in session.scalars(select(Job.user).where(*queued).distinct()).all():
        query = select(-Job.priority, Job.id).where(*queued, Job.user == user)
        first = session.execute(query.order_by(Job.priority.desc(), Job.id).limit(count))
        waiting[user] = [(rank, id_) for rank, id_ in first]
    return take_turns(waiting, last_turns(session, device, waiting), count)


def _answerable(session: Session, device: str, leases: Collection[str]) -> list[Job]:
    """Jobs whose newest lease is one of these, the device's, and that have not ended."""
    found: list[Job] = []
    for part in chunked(list(leases)):
        theirs = (Job.lease.in_(part), Job.lease_device == device, Job.state.not_in(ENDED))
        found += _locked(session, select(Job).where(*theirs))
    return found


def _return(job: Job, reason: str, now: datetime, *, retry: bool = True) -> None:
    if retry and job.tries < job.max_tries:
        job.state = "queued"
    else:
        job.failure = f"Set aside after {job.tries} tries: {reason}" if retry and job.tries > 1 else reason
        _end(job, "failed", now)


def _end(job: Job, state: JobState, now: datetime) -> None:
    job.state, job.ended_at = state, now


def _has_expired(job: Job, now: datetime) -> bool:
    assert job.lease_expires_at is not None
    assert job.lease_s is not None
    return not now < job.lease_expires_at <= now + 2 * timedelta(seconds=job.lease_s)


def _locked(session: Session, query: Select[Job], *, skip_locked: bool = False) -> Sequence[Job]:
    """The rows as they are now, locked in one order (SQLite locks the whole database as it begins to write)."""
    return session.scalars(_fresh(query.order_by(Job.id).with_for_update(skip_locked=skip_locked))).all()


def _fresh(query: Select[Job]) -> Select[Job]:
    return query.execution_options(populate_existing=True)


def _other_content(key: str) -> InvalidInput:
    return InvalidInput(
        f"The idempotency key '{key}' was used for another job before.", "Choose a new key for each new job."
    )
