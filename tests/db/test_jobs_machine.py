"""Any order of events: whatever users, devices, servers and clocks do, no job is lost, stuck, or ended twice."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy import select

from milliseek.db import devices, jobs
from milliseek.db.artefacts import record_artefact
from milliseek.db.engine import Database
from milliseek.db.models import Device, Job

PAYLOAD = "ab" * 32
MODELS = {"board-1": "board", "board-2": "board", "phone": None}
LEASE_S = 30.0

Lease = tuple[str, str, int]  # its device, its name, the id of its job

names = st.sampled_from(sorted(MODELS))


class Queue(RuleBasedStateMachine):
    """Drives the queue in one transaction, which is undone in the end, and remembers what was promised."""

    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._transaction = database.session()
        self.session = self._transaction.__enter__()
        self.now = datetime(2026, 5, 1, tzinfo=UTC)
        self.submitted: dict[tuple[str, str], int] = {}
        self.ended: dict[int, tuple[Any, ...]] = {}
        self.results: dict[int, int] = {}
        record_artefact(self.session, PAYLOAD, "payload", 1)
        for name, model in MODELS.items():
            devices.upsert_device(self.session, name, "agent", {}, model)

    def jobs(self, ids: Collection[int] | None = None) -> dict[int, Job]:
        found = jobs.get_jobs(self.session, list(self.submitted.values() if ids is None else ids))
        return {job.id: job for job in found}

    @rule(
        user=st.sampled_from(["ann", "bob"]),
        key=st.sampled_from("abcdef"),
        device=st.sampled_from(["board", "board-1", "phone"]),
        priority=st.integers(0, 1),
    )
    def submit(self, user: str, key: str, device: str, priority: int) -> None:
        known = self.submitted.get((user, key))
        if known is not None:
            job = self.jobs([known])[known]
            device, priority = job.device, job.priority
        new = jobs.NewJob(
            key, f"{device}/o/fp32", device, "measure", {}, PAYLOAD, 1, user=user, priority=priority, max_tries=2
        )
        (job,) = jobs.submit_jobs(self.session, [new])
        assert known in (None, job.id)
        self.submitted[user, key] = job.id

    @rule(target=leases, device=names, count=st.integers(1, 3))
    def lease(self, device: str, count: int) -> Any:
        before = {id_: (job.state, job.tries) for id_, job in self.jobs().items()}
        row = self.session.scalars(select(Device).where(Device.name == device)).one()
        taken = jobs.lease_jobs(self.session, device, count, LEASE_S, now=self.now)
        for job in taken:
            assert before[job.id] == ("queued", job.tries - 1)
            assert job.device in (device, MODELS[device])
        assert row.state == "active" or not taken
        assert [job.priority for job in taken] == sorted((job.priority for job in taken), reverse=True)
        return multiple(*((device, job.lease, job.id) for job in taken))

    @rule(lease=leases, result=st.integers())
    def complete(self, lease: Lease, result: int) -> None:
        device, name, id_ = lease
        job = self.jobs([id_])[id_]
        expected = job.lease == name and job.state in ("queued", "leased")
        assert jobs.complete_job(self.session, name, device, {"n": result}, None, now=self.now) == expected
        if expected:
            assert id_ not in self.results
            self.results[id_] = result

    @rule(lease=leases, retry=st.booleans())
    def fail(self, lease: Lease, retry: bool) -> None:
        device, name, id_ = lease
        job = self.jobs([id_])[id_]
        before = (job.state, job.tries, job.lease)
        jobs.fail_job(self.session, name, device, "It broke.", retry=retry, now=self.now)
        job = self.jobs([id_])[id_]
        if before[0] != "leased" or before[2] != name:
            assert (job.state, job.tries, job.lease) == before
        else:
            assert job.state == ("queued" if retry and job.tries < job.max_tries else "failed")

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        device, name, id_ = lease
        job = self.jobs([id_])[id_]
        expected = job.lease == name and job.state == "leased"
        assert jobs.release_leases(self.session, device, [name]) == expected

    @rule(lease=leases)
    def heartbeat(self, lease: Lease) -> None:
        device, name, id_ = lease
        lost = jobs.extend_leases(self.session, device, [name], LEASE_S, now=self.now)
        job = self.jobs([id_])[id_]
        assert lost == ([] if (job.state, job.lease) == ("leased", name) else [name])

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.submitted:
            id_ = data.draw(st.sampled_from(sorted(self.submitted.values())))
            (job,) = jobs.cancel_jobs(self.session, [id_], now=self.now)
            assert job.state in jobs.ENDED

    @rule()
    def expire(self) -> None:
        jobs.expire_leases(self.session, now=self.now)
        for job in self.jobs().values():
            if job.state == "leased":
                assert job.lease_expires_at is not None
                assert self.now < job.lease_expires_at <= self.now + timedelta(seconds=2 * LEASE_S)

    @rule(seconds=st.sampled_from([1, 29, 31, 3600, -1, -31, -3600, 1e9, -1e9]))
    def step_the_clock(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(device=names)
    def drain(self, device: str) -> None:
        if devices.find_device(self.session, device):
            devices.set_device_state(self.session, device, "draining")

    @rule(device=names)
    def remove(self, device: str) -> None:
        if devices.find_device(self.session, device):
            devices.remove_device(self.session, device)

    @rule(device=names)
    def register(self, device: str) -> None:
        devices.upsert_device(self.session, device, "agent", {}, MODELS[device])
        devices.set_device_state(self.session, device, "active")

    @invariant()
    def what_has_ended_never_changes(self) -> None:
        for id_, job in self.jobs().items():
            assert 0 <= job.tries <= job.max_tries
            assert (job.ended_at is not None) == (job.state in jobs.ENDED)
            assert (job.result is not None) == (job.state == "done")
            assert (job.failure is not None) == (job.state == "failed")
            if job.state in jobs.ENDED:
                now = (job.state, job.result, job.failure, job.ended_at, job.tries)
                assert self.ended.setdefault(id_, now) == now

    @invariant()
    def what_was_accepted_is_kept(self) -> None:
        done = {id_: job.result for id_, job in self.jobs().items() if job.state == "done"}
        assert done == {id_: {"n": result} for id_, result in self.results.items()}

    @invariant()
    def the_dispatcher_hears_of_all_that_waits(self) -> None:
        waiting = {job.device for job in self.jobs().values() if job.state == "queued"}
        assert jobs.queued_devices(self.session) == waiting

    def teardown(self) -> None:
        """In the end everything can be finished: no job is stuck."""
        try:
            for name in MODELS:
                self.register(name)
            self.now += timedelta(seconds=2 * LEASE_S)
            self.expire()
            for name in MODELS:
                for job in jobs.lease_jobs(self.session, name, 99, LEASE_S, now=self.now):
                    assert jobs.complete_job(self.session, job.lease or "", name, {"n": 0}, None, now=self.now)
            assert {job.state for job in self.jobs().values()} <= set(jobs.ENDED)
        finally:
            self.session.rollback()
            self._transaction.__exit__(None, None, None)


def test_any_order_of_events(database: Database) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        partial(Queue, database),
        settings=settings(max_examples=30, stateful_step_count=40, deadline=None),
    )
