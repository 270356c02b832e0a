"""The queue of jobs: submitted once, handed out fairly, ended exactly once, whatever devices and clocks do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from milliseek.db import devices, jobs, networks
from milliseek.db.artefacts import record_artefact
from milliseek.db.engine import Database
from milliseek.db.jobs import NewJob
from milliseek.db.models import Artefact, Job
from milliseek.errors import InvalidInput, NotFound

PAYLOAD = hashlib.sha256(b"a model").hexdigest()
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LEASE_S = 30.0
ONE = NewJob(
    key="k1",
    target="board/onnxruntime/fp32",
    device="board",
    kind="measure",
    options={"visits": 2},
    payload_sha256=PAYLOAD,
    payload_bytes=7,
)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A session in a database with two devices of the model `board`."""
    with database.session() as session:
        record_artefact(session, PAYLOAD, "payload", 7)
        for name in ("board-1", "board-2"):
            devices.upsert_device(session, name, "agent", {}, "board")
        yield session


def submit(session: Session, keys: Sequence[str], template: NewJob = ONE) -> list[int]:
    return [job.id for job in jobs.submit_jobs(session, [replace(template, key=key) for key in keys])]


def lease(session: Session, device: str, count: int = 1, now: datetime = NOW) -> list[Job]:
    return jobs.lease_jobs(session, device, count, LEASE_S, now=now)


def lease_one(session: Session, device: str = "board-1", now: datetime = NOW) -> str:
    (job,) = lease(session, device, 1, now)
    assert job.lease is not None
    return job.lease


def state(session: Session, id_: int) -> tuple[str, int]:
    (job,) = jobs.get_jobs(session, [id_])
    return job.state, job.tries


class TestSubmitting:
    def test_the_same_key_is_the_same_job(self, session: Session) -> None:
        first, second = jobs.submit_jobs(session, [ONE, replace(ONE, key="k2")])
        third, again, other = jobs.submit_jobs(session, [replace(ONE, key="k3"), ONE, replace(ONE, user="ann")])
        assert again.id == first.id
        assert len({first.id, second.id, third.id, other.id}) == 4
        assert (first.state, first.tries, first.options) == ("queued", 0, {"visits": 2})

    def test_a_key_twice_in_one_request_is_one_job(self, session: Session) -> None:
        first, again = jobs.submit_jobs(session, [ONE, ONE])
        assert first is again

    def test_a_key_is_known_even_when_its_job_has_ended(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        jobs.complete_job(session, lease_one(session), "board-1", {"visits": []}, None)
        (job,) = jobs.submit_jobs(session, [ONE])
        assert (job.id, job.state, job.result) == (id_, "done", {"visits": []})

    def test_options_are_compared_as_json(self, session: Session) -> None:
        tuples, lists = replace(ONE, options={"shape": (1, 3)}), replace(ONE, options={"shape": [1, 3]})
        assert jobs.submit_jobs(session, [tuples])[0].id == jobs.submit_jobs(session, [lists])[0].id

    @pytest.mark.parametrize("change", [{"options": {"visits": 3}}, {"target": "x/y/fp32"}, {"priority": 1}])
    def test_another_content_under_a_known_key_is_refused(self, session: Session, change: dict[str, object]) -> None:
        jobs.submit_jobs(session, [ONE])
        other = replace(ONE, **change)  # type: ignore[arg-type]
        for batch in ([other], [replace(ONE, key="k2"), replace(other, key="k2")]):
            with pytest.raises(InvalidInput, match="idempotency key 'k"):
                jobs.submit_jobs(session, batch)

    def test_jobs_are_told_in_the_order_asked(self, session: Session) -> None:
        first, second = submit(session, ["k1", "k2"])
        assert [job.id for job in jobs.get_jobs(session, [second, first, second])] == [second, first, second]
        with pytest.raises(NotFound, match="no job 12345"):
            jobs.get_jobs(session, [first, 12345])

    def test_pages(self, session: Session) -> None:
        ids = submit(session, ["k1", "k2", "k3"])
        submit(session, ["k4"], replace(ONE, target="other/onnxruntime/fp32"))
        jobs.cancel_jobs(session, ids[:1])
        first = jobs.list_jobs(session, target=ONE.target, limit=2)
        rest = jobs.list_jobs(session, target=ONE.target, after_id=first[-1].id, limit=2)
        assert [job.id for job in (*first, *rest)] == ids
        assert [job.id for job in jobs.list_jobs(session, state="cancelled")] == ids[:1]


class TestLeasing:
    def test_devices_of_one_model_share_its_jobs(self, session: Session) -> None:
        shared = submit(session, ["k1", "k2", "k3"])
        own = submit(session, ["k4"], replace(ONE, device="board-2"))
        first = lease(session, "board-1", 2)
        second = lease(session, "board-2", 9)
        assert [job.id for job in first] == shared[:2]
        assert [job.id for job in second] == [shared[2], *own]
        assert lease(session, "board-1", 9) == []
        assert {(job.state, job.tries, job.lease_expires_at) for job in first} == {("leased", 1, after(LEASE_S))}
        assert len({job.lease for job in (*first, *second)}) == 4

    def test_highest_priority_first_then_the_oldest(self, session: Session) -> None:
        low = submit(session, ["k1", "k2"])
        (high,) = submit(session, ["k3"], replace(ONE, priority=5))
        (lowest,) = submit(session, ["k4"], replace(ONE, priority=-5))
        assert [job.id for job in lease(session, "board-1", 9)] == [high, *low, lowest]

    def test_users_take_turns(self, session: Session) -> None:
        submit(session, [f"k{i}" for i in range(6)], replace(ONE, user="ann"))
        submit(session, [f"k{i}" for i in range(3)], replace(ONE, user="bob"))
        assert [job.user for job in lease(session, "board-1", 3)] == ["ann", "bob", "ann"]
        submit(session, ["k0"], replace(ONE, user="cid"))
        assert [lease(session, "board-1", 1)[0].user for _ in range(5)] == ["cid", "bob", "ann", "bob", "ann"]

    def test_turns_do_not_depend_on_the_clock(self, session: Session) -> None:
        for user in ("ann", "bob"):
            submit(session, ["k0", "k1", "k2"], replace(ONE, user=user))
        clock = (NOW, after(-1e6), after(1e6), after(-1e7), NOW)
        assert [lease(session, "board-1", 1, now)[0].user for now in clock] == ["ann", "bob", "ann", "bob", "ann"]

    def test_a_priority_goes_before_fairness(self, session: Session) -> None:
        submit(session, ["k0", "k1"], replace(ONE, user="ann", priority=1))
        submit(session, ["k0"], replace(ONE, user="bob"))
        assert [job.user for job in lease(session, "board-1", 3)] == ["ann", "ann", "bob"]

    def test_draining_removed_and_unknown_devices_get_nothing(self, session: Session) -> None:
        submit(session, ["k1"])
        devices.set_device_state(session, "board-1", "draining")
        assert lease(session, "board-1") == []
        devices.set_device_state(session, "board-1", "active")
        devices.remove_device(session, "board-1")
        assert lease(session, "board-1") == []
        assert lease(session, "nobody") == []
        assert len(lease(session, "board-2")) == 1

    def test_what_is_waited_for(self, session: Session) -> None:
        assert jobs.queued_devices(session) == set()
        submit(session, ["k1", "k2"])
        submit(session, ["k3"], replace(ONE, device="board-2"))
        submit(session, ["k4"], replace(ONE, device="phone"))
        assert jobs.queued_devices(session) == {"board", "board-2", "phone"}
        lease(session, "board-2", 9)
        assert jobs.queued_devices(session) == {"phone"}


class TestAnswers:
    def test_exactly_one_result_is_stored(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        held = lease_one(session)
        record_artefact(session, "ab" * 32, "result", 3)
        assert jobs.complete_job(session, held, "board-1", {"n": 1}, "ab" * 32, now=after(3))
        assert not jobs.complete_job(session, held, "board-1", {"n": 2}, None)
        jobs.fail_job(session, held, "board-1", "late", retry=True)
        assert jobs.extend_leases(session, "board-1", [held], LEASE_S) == [held]
        (job,) = jobs.get_jobs(session, [id_])
        assert (job.state, job.result, job.result_sha256, job.failure) == ("done", {"n": 1}, "ab" * 32, None)
        assert job.ended_at == after(3)

    def test_nobody_answers_for_another_device_or_under_a_made_up_lease(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        held = lease_one(session)
        assert not jobs.complete_job(session, held, "board-2", {}, None)
        assert not jobs.complete_job(session, "f" * 32, "board-1", {}, None)
        jobs.fail_job(session, held, "board-2", "no", retry=False)
        assert jobs.release_leases(session, "board-2", [held]) == 0
        assert jobs.extend_leases(session, "board-2", [held], LEASE_S) == [held]
        assert state(session, id_) == ("leased", 1)

    def test_late_answer_is_taken_while_nobody_else_holds_the_job(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        held = lease_one(session)
        assert jobs.expire_leases(session, now=after(31)) == 1
        assert state(session, id_) == ("queued", 1)
        assert jobs.complete_job(session, held, "board-1", {"n": 1}, None)
        assert lease(session, "board-2") == []

    def test_late_answer_is_refused_when_somebody_else_holds_the_job(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        first = lease_one(session, "board-1")
        jobs.expire_leases(session, now=after(31))
        second = lease_one(session, "board-2", after(32))
        assert not jobs.complete_job(session, first, "board-1", {"n": 1}, None)
        jobs.fail_job(session, first, "board-1", "late", retry=False)
        assert jobs.extend_leases(session, "board-1", [first], LEASE_S, now=after(33)) == [first]
        assert jobs.complete_job(session, second, "board-2", {"n": 2}, None)
        assert not jobs.complete_job(session, first, "board-1", {"n": 1}, None)
        assert jobs.get_jobs(session, [id_])[0].result == {"n": 2}

    def test_a_job_that_was_given_back_unbegun_counts_as_untried(self, session: Session) -> None:
        ids = submit(session, ["k1", "k2", "k3"])
        held = [job.lease or "" for job in lease(session, "board-1", 3)]
        assert jobs.release_leases(session, "board-1", held[:1]) == 1
        assert [state(session, id_) for id_ in ids] == [("queued", 0), ("leased", 1), ("leased", 1)]
        assert jobs.release_leases(session, "board-1") == 2
        assert [state(session, id_) for id_ in ids] == [("queued", 0)] * 3
        assert len(lease(session, "board-2", 9)) == 3

    def test_failed_tries_are_bounded_and_the_last_one_tells_why(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        for tries in (1, 2):
            jobs.fail_job(session, lease_one(session), "board-1", "The machine was busy.", retry=True)
            assert state(session, id_) == ("queued", tries)
        jobs.fail_job(session, lease_one(session), "board-1", "The machine was busy.", retry=True, now=after(5))
        (job,) = jobs.get_jobs(session, [id_])
        assert (job.state, job.failure) == ("failed", "Set aside after 3 tries: The machine was busy.")
        assert job.ended_at == after(5)

    def test_what_cannot_run_is_not_tried_again(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        held = lease_one(session)
        jobs.fail_job(session, held, "board-1", "No such operator.", retry=False)
        jobs.fail_job(session, held, "board-1", "Again.", retry=False)
        (job,) = jobs.get_jobs(session, [id_])
        assert (job.state, job.failure) == ("failed", "No such operator.")

    def test_a_failure_told_twice_counts_once(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"], replace(ONE, max_tries=2))
        held = lease_one(session)
        for _ in range(3):
            jobs.fail_job(session, held, "board-1", "busy", retry=True)
        assert state(session, id_) == ("queued", 1)

    def test_cancelled_jobs_are_dropped_by_whoever_holds_them(self, session: Session) -> None:
        leased, queued, done = submit(session, ["k1", "k2", "k3"])
        first, _, last = (job.lease or "" for job in lease(session, "board-1", 3))
        jobs.release_leases(session, "board-1", [jobs.get_jobs(session, [queued])[0].lease or ""])
        jobs.complete_job(session, last, "board-1", {}, None)
        states = [job.state for job in jobs.cancel_jobs(session, [leased, queued, done])]
        assert states == ["cancelled", "cancelled", "done"]
        assert jobs.extend_leases(session, "board-1", [first], LEASE_S) == [first]
        assert not jobs.complete_job(session, first, "board-1", {}, None)
        assert lease(session, "board-2", 9) == []


class TestExpiry:
    def test_heartbeats_keep_a_lease(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        held = lease_one(session)
        for beat in range(1, 10):
            assert jobs.extend_leases(session, "board-1", [held], LEASE_S, now=after(20 * beat)) == []
            assert jobs.expire_leases(session, now=after(20 * beat + 10)) == 0
        assert jobs.expire_leases(session, now=after(180 + LEASE_S)) == 1
        assert state(session, id_) == ("queued", 1)

    def test_a_device_that_was_cut_off_goes_on_with_its_work(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        held = lease_one(session)
        jobs.expire_leases(session, now=after(100))
        assert jobs.extend_leases(session, "board-1", [held], LEASE_S, now=after(101)) == []
        assert state(session, id_) == ("leased", 1)
        assert lease(session, "board-2", 1, after(102)) == []

    def test_what_brings_its_device_down_is_set_aside_and_the_innocent_survive(self, session: Session) -> None:
        poison, *innocent = submit(session, ["poison", "k2", "k3"])
        for attempt in range(3):
            assert len(lease(session, "board-1", 9, after(100 * attempt))) == 3
            assert jobs.expire_leases(session, now=after(100 * attempt + 50)) == 3
        (job,) = jobs.get_jobs(session, [poison])
        assert job.state == "failed"
        assert job.failure == "Set aside after 3 tries: The device 'board-1' was lost while it worked on this."
        assert [state(session, id_) for id_ in innocent] == [("queued", 0)] * 2

    def test_only_the_jobs_of_the_lost_device_come_back(self, session: Session) -> None:
        first, second = submit(session, ["k1", "k2"])
        lease_one(session, "board-1")
        lease_one(session, "board-2", after(20))
        assert jobs.expire_leases(session, now=after(35)) == 1
        assert (state(session, first), state(session, second)) == (("queued", 1), ("leased", 1))

    def test_clock_set_forward_expires_and_the_device_takes_its_job_again(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        held = lease_one(session)
        assert jobs.expire_leases(session, now=after(3600)) == 1
        assert jobs.extend_leases(session, "board-1", [held], LEASE_S, now=after(3601)) == []
        assert jobs.complete_job(session, held, "board-1", {}, None)
        assert state(session, id_) == ("done", 1)

    def test_clock_set_back_leaves_no_job_stuck(self, session: Session) -> None:
        (id_,) = submit(session, ["k1"])
        lease_one(session)
        assert jobs.expire_leases(session, now=after(-10)) == 0  # another server's clock may differ a little
        assert jobs.expire_leases(session, now=after(-3600)) == 1
        assert state(session, id_) == ("queued", 1)

    def test_clock_set_back_and_heartbeats_go_on(self, session: Session) -> None:
        submit(session, ["k1"])
        held = lease_one(session)
        assert jobs.extend_leases(session, "board-1", [held], LEASE_S, now=after(-3600)) == []
        assert jobs.expire_leases(session, now=after(-3590)) == 0

    def test_nothing_leased_nothing_expires(self, session: Session) -> None:
        submit(session, ["k1"])
        assert jobs.expire_leases(session, now=after(1e6)) == 0


class TestRemovingDevices:
    def test_jobs_go_to_another_of_its_model(self, session: Session) -> None:
        shared, _ = submit(session, ["k1", "k2"])
        (own,) = submit(session, ["k3"], replace(ONE, device="board-1"))
        held = lease_one(session)
        devices.remove_device(session, "board-1")
        assert state(session, shared) == ("queued", 1)
        (job,) = jobs.get_jobs(session, [own])
        assert (job.state, job.failure) == ("failed", "The device 'board-1' was removed.")
        assert not jobs.complete_job(session, held, "board-1", {}, None)
        assert jobs.extend_leases(session, "board-1", [held], LEASE_S) == [held]
        assert len(lease(session, "board-2", 9)) == 2

    def test_jobs_that_nobody_can_do_fail(self, session: Session) -> None:
        ids = submit(session, ["k1", "k2"])
        lease_one(session)
        for name in ("board-1", "board-2"):
            devices.remove_device(session, name)
        assert {job.state for job in jobs.get_jobs(session, ids)} == {"failed"}


class TestForgetting:
    def test_a_payload_goes_with_its_last_job(self, session: Session) -> None:
        first, second = submit(session, ["k1", "k2"])
        jobs.cancel_jobs(session, [first], now=NOW)
        assert jobs.delete_ended(session, NOW) == []  # not before this moment
        assert jobs.delete_ended(session, after(1)) == []
        with pytest.raises(NotFound):
            jobs.get_jobs(session, [first])
        record_artefact(session, "ab" * 32, "result", 3)
        jobs.complete_job(session, lease_one(session), "board-1", {}, "ab" * 32, now=after(5))
        assert jobs.get_jobs(session, [second])[0].state == "done"
        assert sorted(jobs.delete_ended(session, after(6))) == sorted([PAYLOAD, "ab" * 32])
        assert session.scalar(select(func.count()).select_from(Artefact)) == 0

    def test_an_uploaded_model_stays(self, session: Session) -> None:
        networks.get_or_create_model(session, PAYLOAD, format="onnx", name="net.onnx")
        jobs.cancel_jobs(session, submit(session, ["k1"]), now=NOW)
        assert jobs.delete_ended(session, after(1)) == []
        assert session.get(Artefact, PAYLOAD) is not None

    def test_an_id_is_never_used_again(self, session: Session) -> None:
        (first,) = submit(session, ["k1"])
        jobs.cancel_jobs(session, [first], now=NOW)
        jobs.delete_ended(session, after(1))
        record_artefact(session, PAYLOAD, "payload", 7)
        (second,) = submit(session, ["k1"])
        assert second > first
