"""What servers note about the streams of agents: who is connected to which, and the jobs that they hold there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from .columns import utc_now
from .conflicts import chunked
from .jobs import ENDED, fail_job, release_leases
from .models import Device, Job


class JobProgress(NamedTuple):
    """What changes about a job while it is watched."""

    id: int
    state: str
    tries: int
    device: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED


class LeasedJob(NamedTuple):
    """What one must know of a job to judge an answer under its lease."""

    id: int
    state: str
    device: str | None
    kind: str
    options: dict[str, Any]


def find_namesake(session: Session, name: str, model: str) -> str | None:
    """Another device whose model is called `name`, or which is itself called `model`; None if there is none."""
    other = Device.state != "removed", Device.name != name, or_(Device.model == name, Device.name == model)
    return session.scalar(select(Device.name).where(*other).limit(1))


def claim_streams(session: Session, streams: Mapping[str, str], connected_for_s: float) -> None:
    """Note that these devices are connected, each over the stream given, which ends any older one of it."""
    now = utc_now()
    for device, stream in sorted(streams.items()):  # in one order, so that two servers cannot block each other
        session.execute(
            update(Device)
            .where(Device.name == device)
            .values(stream=stream, last_seen_at=now, connected_until=now + timedelta(seconds=connected_for_s))
        )


def touch_streams(session: Session, streams: Mapping[str, str], connected_for_s: float) -> None:
    """Note a sign of life on these streams; a device with a newer one is not touched."""
    now = utc_now()
    until = now + timedelta(seconds=connected_for_s)
    for devices in chunked(sorted(streams)):
        mine = Device.name.in_(devices), Device.stream.in_([streams[device] for device in devices])
        session.execute(update(Device).where(*mine).values(last_seen_at=now, connected_until=until))


def close_streams(session: Session, ended: Sequence[tuple[str, str]]) -> None:
    """Note that these streams, given as (device, stream), have ended; a device with a newer one stays connected."""
    for part in chunked(sorted(ended)):
        theirs = Device.name.in_([device for device, _ in part]), Device.stream.in_([stream for _, stream in part])
        session.execute(update(Device).where(*theirs).values(connected_until=utc_now(), stream=None))


def stream_states(session: Session, devices: Collection[str]) -> dict[str, tuple[str, str | None]]:
    """(state, stream) of each of these devices; unknown ones are missing."""
    found: dict[str, tuple[str, str | None]] = {}
    for part in chunked(sorted(devices)):
        rows = session.execute(select(Device.name, Device.state, Device.stream).where(Device.name.in_(part)))
        found.update({name: (state, stream) for name, state, stream in rows})
    return found


def standing_leases(session: Session, leases: Collection[str]) -> set[str]:
    """Those of the leases under which an answer is still welcome: held, or expired with nobody else at it."""
    standing: set[str] = set()
    for part in chunked(sorted(leases)):
        query = select(Job.lease).where(Job.lease.in_(part), Job.state.not_in(ENDED))
        standing.update(lease for lease in session.scalars(query) if lease is not None)
    return standing


def abandon_leases(session: Session, device: str, holds: Collection[str], reason: str) -> int:
    """Take back what the device was handed and does not hold any more, as its agent was started anew; how many.

    It works in the order in which it was handed its jobs, so only the first of them counts as tried.
    """
    query = select(Job.lease).where(Job.state == "leased", Job.lease_device == device).order_by(Job.turn)
    gone = [lease for lease in session.scalars(query) if lease is not None and lease not in holds]
    if gone:
        fail_job(session, gone[0], device, reason, retry=True)
        release_leases(session, device, gone[1:])
    return len(gone)


def leased_jobs(session: Session, leases: Collection[str]) -> dict[str, LeasedJob]:
    """The jobs that bear these leases, whether or not they are still held."""
    columns = (Job.lease, Job.id, Job.state, Job.lease_device, Job.kind, Job.options)
    found: dict[str, LeasedJob] = {}
    for part in chunked(sorted(leases)):
        rows = session.execute(select(*columns).where(Job.lease.in_(part)))
        found.update({row[0]: LeasedJob(*row[1:]) for row in rows if row[0] is not None})
    return found


def find_jobs(session: Session, user: str, keys: Sequence[str]) -> dict[str, Job]:
    """The jobs of a user by key, those of the keys that are known."""
    found: dict[str, Job] = {}
    for part in chunked(keys):
        rows = session.scalars(select(Job).where(Job.user == user, Job.key.in_(part)))
        found.update((job.key, job) for job in rows)
    return found


def find_leased_job(session: Session, lease: str) -> Job | None:
    """The job that bears this lease, whoever holds it now, or None."""
    return session.scalars(select(Job).where(Job.lease == lease)).one_or_none()


def job_progress(session: Session, ids: Collection[int]) -> dict[int, JobProgress]:
    """How far these jobs are; unknown ones are missing."""
    columns = (Job.id, Job.state, Job.tries, Job.lease_device)
    found: dict[int, JobProgress] = {}
    for part in chunked(sorted(ids)):
        rows = session.execute(select(*columns).where(Job.id.in_(part)))
        found.update((row[0], JobProgress(*row)) for row in rows)
    return found
