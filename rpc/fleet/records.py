"""What the fleet reads and writes in the database: each method is one transaction, to be called in a thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from ...db import streams
from ...db.columns import utc_now
from ...db.devices import get_device
from ...db.engine import Database
from ...db.jobs import delete_ended, expire_leases, extend_leases, fail_job, lease_jobs, queued_devices, release_leases
from ...db.models import Device, Job
from .outcomes import Outcome, store_outcomes


class EndedStream(NamedTuple):
    """A stream that is gone, and the leases of the jobs that were never sent over it."""

    device: str
    stream: str
    unsent: list[str]


class Seen(NamedTuple):
    """What the database says about connected agents: (state, stream) by device, and the leases that stand."""

    states: dict[str, tuple[str, str | None]]
    standing: set[str]


class FleetRecords:
    """The fleet's side of the database; leases last `lease_s`, jobs that ended are kept for `keep_s` seconds."""

    def __init__(self, database: Database, lease_s: float, keep_s: float) -> None:
        self._database = database
        self._lease_s = lease_s
        self._keep_s = keep_s

    def load(self, device: str) -> Device:
        """A registered device; raises NotFound."""
        with self._database.session(read_only=True) as session:
            return get_device(session, device)

    def queued(self) -> set[str]:
        """Names and models of devices for which something waits."""
        with self._database.session(read_only=True) as session:
            return queued_devices(session)

    def lease(self, asked: Sequence[tuple[str, int]]) -> list[list[Job]]:
        """For each (device, count) at most so many jobs."""
        with self._database.session() as session:
            return [lease_jobs(session, device, count, self._lease_s) for device, count in asked]

    def release(self, leases: Sequence[tuple[str, str]]) -> None:
        """Give back jobs, as (device, lease), that were never sent."""
        with self._database.session() as session:
            for device, lease in leases:
                release_leases(session, device, [lease])

    def fail(self, device: str, lease: str, reason: str) -> None:
        """Fail a job for good."""
        with self._database.session() as session:
            fail_job(session, lease, device, reason, retry=False)

    def store(self, outcomes: Sequence[Outcome]) -> list[int]:
        """Store outcomes together; the ids of their jobs."""
        return store_outcomes(self._database, outcomes)

    def note_arrivals(self, claims: Mapping[str, str], holds: Mapping[str, list[str]]) -> None:
        """Note new streams by device, and take back what those devices lost whose agents tell what they hold."""
        with self._database.session() as session:
            streams.claim_streams(session, claims, self._lease_s)
            for device, leases in holds.items():
                reason = f"The agent of '{device}' was started anew while it worked on this."
                streams.abandon_leases(session, device, leases, reason)

    def note_ends(self, ended: Sequence[EndedStream]) -> None:
        """Note that streams are gone."""
        with self._database.session() as session:
            streams.close_streams(session, [(end.device, end.stream) for end in ended])
            for end in ended:
                if end.unsent:
                    release_leases(session, end.device, end.unsent)

    def see(self, devices: Collection[str], leases: Collection[str]) -> Seen:
        """How these devices and leases are now."""
        with self._database.session(read_only=True) as session:
            return Seen(streams.stream_states(session, devices), streams.standing_leases(session, leases))

    def touch(self, alive: Mapping[str, str]) -> None:
        """Note signs of life on streams by device."""
        with self._database.session() as session:
            streams.touch_streams(session, alive, self._lease_s)

    def extend(self, held: Sequence[tuple[str, list[str]]]) -> list[list[str]]:
        """Extend what devices hold, given as (device, leases); of each the leases that no longer hold."""
        with self._database.session() as session:
            return [extend_leases(session, device, leases, self._lease_s) for device, leases in held]

    def expire(self) -> int:
        """Take back what nobody was heard of for too long; how many."""
        with self._database.session() as session:
            return expire_leases(session)

    def clean(self) -> None:
        """Forget jobs that ended long ago, with their files."""
        with self._database.session() as session:
            for sha256 in delete_ended(session, utc_now() - timedelta(seconds=self._keep_s)):
                # Before the commit: whoever stores the same bytes now has to wait, and stores them anew.
                self._database.artefacts.discard(sha256)
