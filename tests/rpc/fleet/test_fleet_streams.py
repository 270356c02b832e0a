"""The streams of agents: how they begin, how they end, and what the server says about them."""

import sqlite3
import threading
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from milliseek.rpc.v1 import device_pb2

Request = device_pb2.WorkRequest

on_each = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


def code_of(call):
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return failed.value.code().name


def device(devices, name="pi4-kitchen"):
    return devices.GetDevice(device_pb2.GetDeviceRequest(name=name), timeout=60).device


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"heartbeat": {}}, "INVALID_ARGUMENT"),
        ({"hello": {"device": "pi4-kitchen"}}, "INVALID_ARGUMENT"),
        ({"hello": {"device": "pi4-kitchen", "capacity": 65}}, "INVALID_ARGUMENT"),
        ({"hello": {"device": "../etc", "capacity": 1}}, "INVALID_ARGUMENT"),
        ({"hello": {"device": "pi4-kitchen", "capacity": 1, "agent_version": "1" * 201}}, "INVALID_ARGUMENT"),
        ({"hello": {"device": "unknown", "capacity": 1}}, "NOT_FOUND"),
    ],
)
def test_a_stream_begins_with_a_hello_of_a_known_device(devices, message, code):
    assert code_of(lambda: list(devices.Work(iter([Request(**message)]), timeout=60))) == code


def test_a_stream_that_says_nothing_is_refused(devices):
    assert code_of(lambda: list(devices.Work(iter([]), timeout=60))) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({}, "INVALID_ARGUMENT"),
        ({"hello": {"device": "pi4-kitchen", "capacity": 1}}, "INVALID_ARGUMENT"),
        ({"heartbeat": {"leases": ["'; DROP TABLE ms_job"]}}, "INVALID_ARGUMENT"),
        ({"heartbeat": {"leases": ["a" * 32] * 257}}, "RESOURCE_EXHAUSTED"),
        ({"outcome": {"lease": "", "result_json": "{}"}}, "INVALID_ARGUMENT"),
        ({"outcome": {"lease": "a" * 32, "payload_sha256": "short"}}, "INVALID_ARGUMENT"),
        ({"outcome": {"lease": "a" * 32, "payload": b"x" * ((1 << 20) + 1)}}, "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_an_agent_says_is_checked(server, agent, message, code):
    board = agent(server).ready()
    board.say(**message)
    assert code_of(board.hear) == code


def test_the_terms_are_told(server, agent, config):
    welcome = agent(server).expect("welcome")
    assert (welcome.heartbeat_s, welcome.lease_s) == (config.heartbeat_s, config.lease_s)


@on_each
def test_a_device_is_connected_while_its_stream_lasts(server, agent, devices, until):
    board = agent(server).ready()
    until(lambda: device(devices).connected)
    assert device(devices).last_seen_at.seconds > 0
    board.cut()
    until(lambda: not device(devices).connected)


def test_a_device_stays_connected_while_it_is_heard(start, database, hasty, agent, devices, server, until):
    board = agent(start(database, hasty)).ready()
    until(lambda: device(devices).connected)
    first = device(devices).last_seen_at.ToNanoseconds()
    while device(devices).last_seen_at.ToNanoseconds() < first + 2e9 * hasty.lease_s:
        board.beat()
        assert device(devices).connected


@on_each
def test_a_newer_stream_ends_the_older_one(server, agent, devices, until):
    older = agent(server).ready()
    newer = agent(server).ready()
    goodbye = older.expect("goodbye")
    assert not goodbye.reconnect
    older.ended()
    newer.beat()
    until(lambda: device(devices).connected)


def test_a_silent_stream_is_ended(start, database, hasty, agent):
    board = agent(start(database, hasty)).ready()
    with pytest.raises(grpc.RpcError, match="no sign of life") as failed:
        board.hear()
    assert failed.value.code().name == "ABORTED"


def test_an_agent_that_is_done_closes_its_side(server, agent, jobs, devices, until):
    board = agent(server).ready()
    (id_,) = jobs.put()
    board.answer(board.expect("job").lease)
    board.finish()
    board.expect("taken")
    board.ended()
    assert jobs.job(id_).state == "done"


@on_each
class TestDraining:
    def drain(self, devices, *, resume=False):
        request = device_pb2.DrainDeviceRequest(name="pi4-kitchen", resume=resume)
        return devices.DrainDevice(request, timeout=60).device.state

    def test_what_is_held_is_finished_and_no_more_is_given(self, server, agent, jobs, devices):
        board = agent(server, capacity=1).ready()
        first, second = jobs.put(count=2)
        lease = board.expect("job").lease
        assert self.drain(devices) == device_pb2.DEVICE_STATE_DRAINING
        assert board.expect("goodbye").reconnect
        board.answer(lease)
        board.expect("taken")
        board.ended()
        assert [jobs.job(id_).state for id_ in (first, second)] == ["done", "queued"]

    def test_it_comes_back_and_waits_until_it_may_work_again(self, server, agent, jobs, devices, until):
        agent(server)
        self.drain(devices)
        (id_,) = jobs.put()
        board = agent(server).ready()
        until(lambda: device(devices).connected)
        assert jobs.job(id_).state == "queued"
        assert self.drain(devices, resume=True) == device_pb2.DEVICE_STATE_ACTIVE
        board.expect("job")

    def test_an_idle_stream_ends_at_once(self, server, agent, devices, until):
        board = agent(server).ready()
        until(lambda: device(devices).connected)
        self.drain(devices)
        assert board.expect("goodbye").reconnect
        board.ended()


@on_each
def test_a_removed_device_is_sent_away_and_others_take_its_jobs(server, agent, jobs, devices):
    boards = [agent(server, f"pi4-{i}", model="pi4", capacity=1).ready() for i in range(2)]
    own, shared = jobs.put("pi4-0")[0], jobs.put("pi4", count=2)
    for board in boards:
        board.expect("job")
    devices.RemoveDevice(device_pb2.RemoveDeviceRequest(name="pi4-0"), timeout=60)
    goodbye = boards[0].expect("goodbye")
    assert (goodbye.reconnect, "removed" in goodbye.reason) == (False, True)
    boards[0].ended()
    assert jobs.job(own).state == "failed"
    assert jobs.job(shared[1]).state in ("queued", "leased")
    assert code_of(lambda: device(devices, "pi4-0")) == "NOT_FOUND"


@on_each
class TestStopping:
    def test_agents_hear_goodbye_and_their_last_results_are_stored(self, start, database, config, agent, jobs):
        server = start(database, config, grace_s=60)
        board, idle = agent(server).ready(), agent(server, "idle").ready()
        ids = jobs.put(count=3)
        leases = [board.expect("job").lease for _ in ids]
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert board.expect("goodbye").reconnect
        assert idle.expect("goodbye").reconnect
        idle.ended()
        for lease in leases:
            board.answer(lease)
            board.expect("taken")
        board.ended()
        stopping.join(60)  # long before the grace has passed
        assert not stopping.is_alive()
        assert {jobs.job(id_).state for id_ in ids} == {"done"}

    def test_what_is_not_finished_in_time_is_kept_for_the_next_server(self, start, database, config, agent, jobs):
        server = start(database, config, grace_s=0.1)
        board = agent(server).ready()
        (id_,) = jobs.put()
        lease = board.expect("job").lease
        server.stop()
        board.expect("goodbye")
        assert code_of(board.hear) in ("UNAVAILABLE", "CANCELLED")
        again = agent(start(database, config), register=False).ready(lease)
        again.answer(lease)
        again.expect("taken")
        assert (jobs.job(id_).state, jobs.job(id_).tries) == ("done", 1)


def test_outcomes_wait_for_a_locked_database(tmp_path, open_database, start, config, agent, queue_of, caplog):
    path = tmp_path / "milliseek.db"
    database = open_database(f"sqlite:///{path}?timeout=0.05")
    board = agent(start(database, config)).ready()
    jobs = queue_of(database)
    (id_,) = jobs.put()
    lease = board.expect("job").lease
    locking = sqlite3.connect(path, isolation_level=None)
    locking.execute("BEGIN IMMEDIATE")
    board.answer(lease)
    tick = threading.Event()
    while not any("waits for the database" in record.message for record in caplog.records):
        tick.wait(0.02)
    assert jobs.job(id_).state == "leased"
    locking.execute("COMMIT")
    locking.close()
    assert board.expect("taken").lease == lease
    assert jobs.job(id_).state == "done"


def test_one_outcome_that_meets_a_bug_does_not_hold_up_others(server, agent, jobs, monkeypatch, caplog):
    from milliseek.rpc.fleet import records as fleet_records
    from milliseek.rpc.fleet.outcomes import store_outcomes

    bad, good = agent(server, "bad").ready(), agent(server, "good").ready()

    def store(database, outcomes):
        if any(outcome.device == "bad" for outcome in outcomes):
            raise ZeroDivisionError
        return store_outcomes(database, outcomes)

    monkeypatch.setattr(fleet_records, "store_outcomes", store)
    ids = [*jobs.put("bad"), *jobs.put("good")]
    leases = [board.expect("job").lease for board in (bad, good)]
    bad.answer(leases[0])
    good.answer(leases[1])
    good.expect("taken")
    assert code_of(bad.hear) == "UNAVAILABLE"
    assert [jobs.job(id_).state for id_ in ids] == ["leased", "done"]
    assert "cannot be stored" in caplog.text


@on_each
def test_a_cleaned_queue_keeps_what_is_young(server, database, jobs, agent, monkeypatch):
    from milliseek.rpc.fleet.records import FleetRecords

    board = agent(server).ready()
    (old,) = jobs.put(data=b"old")
    board.answer(board.expect("job").lease)
    board.expect("taken")
    (waiting,) = jobs.put("elsewhere", data=b"young")
    files = [jobs.job(id_).payload_sha256 for id_ in (old, waiting)]
    FleetRecords(database, 60, keep_s=3600).clean()
    assert jobs.job(old).state == "done"
    FleetRecords(database, 60, keep_s=-1).clean()
    assert jobs.job(waiting).state == "queued"
    assert database.artefacts.read(files[1]) == b"young"
    assert not (database.artefacts.root / files[0][:2] / files[0]).exists()


def test_a_stream_that_is_silent_keeps_no_leases(start, database, config, agent, jobs):
    """Half of a connection may be gone while the other half knows nothing of it."""
    server = start(database, replace(config, heartbeat_s=3, lease_s=0.4))
    silent = agent(server, "pi4-0", model="pi4").ready()
    (id_,) = jobs.put("pi4", max_tries=100)
    silent.expect("job")
    other = agent(server, "pi4-1", model="pi4").ready()
    other.answer(other.expect("job").lease)
    other.expect("taken")
    assert jobs.job(id_).lease_device == "pi4-1"


def test_a_clock_that_is_set_costs_nobody_a_job(start, database, config, agent, jobs, monkeypatch, until):
    from milliseek.db import jobs as queries
    from milliseek.rpc.fleet import dispatcher as fleet

    told = []
    board = agent(start(database, replace(config, lease_s=1.0, on_expired=told.append))).ready()
    (id_,) = jobs.put()
    lease = board.expect("job").lease
    board.beat(lease)
    hour, now = timedelta(hours=1), queries.utc_now
    monkeypatch.setattr(queries, "utc_now", lambda: now() + hour)
    monkeypatch.setattr(fleet, "_clock", lambda: hour.total_seconds() + 7)
    until(lambda: jobs.job(id_).lease_expires_at > now() + hour / 2)
    assert (jobs.job(id_).lease, jobs.job(id_).state, told) == (lease, "leased", [])
