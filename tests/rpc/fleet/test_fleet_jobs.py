"""What becomes of jobs between the queue and the agents: each is done, and its result is stored once."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from milliseek.rpc.v1 import device_pb2, measure_pb2, measure_pb2_grpc

MIB = 1 << 20
pytestmark = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


def test_a_job_goes_to_the_agent_and_its_result_comes_back(server, agent, jobs, measured, sha256_of):
    board = agent(server).ready()
    (id_,) = jobs.put(data=b"network", options={"optimise": True, "visits": 1}, time_limit_s=33)
    job = board.expect("job")
    assert (job.kind, job.target, job.payload, job.payload_bytes) == (
        "measure",
        "pi4-kitchen/onnxruntime/fp32",
        b"network",
        7,
    )
    assert json.loads(job.options_json) == {"optimise": True, "visits": 1}
    assert (job.payload_sha256, job.time_limit_s) == (sha256_of(b"network"), 33)
    board.answer(job.lease, temperature_c=51.5)
    assert board.expect("taken").lease == job.lease
    stored = jobs.job(id_)  # taken means stored
    assert (stored.state, stored.tries, stored.lease_device) == ("done", 1, "pi4-kitchen")
    assert stored.result == {**measured, "temperature_c": 51.5}


def test_nobody_holds_more_than_it_asked_for(server, agent, jobs):
    board = agent(server, capacity=2).ready()
    ids = jobs.put(count=5)
    held = [board.expect("job").lease for _ in range(2)]
    seen = [*held]
    for _ in range(3):
        assert sum(jobs.job(id_).state == "leased" for id_ in ids) == 2
        board.answer(held.pop(0))
        board.expect("taken")
        held.append(board.expect("job").lease)
        seen.append(held[-1])
    assert len(set(seen)) == 5


def test_a_large_model_is_downloaded(server, agent, jobs, sha256_of):
    data = bytes(range(256)) * 8192 + b"end"
    board = agent(server).ready()
    jobs.put(data=data)
    job = board.expect("job")
    assert (job.payload, job.payload_bytes) == (b"", len(data))
    request = device_pb2.DownloadPayloadRequest(lease=job.lease)
    chunks = [response.chunk for response in board.stub.DownloadPayload(request, timeout=60)]
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= MIB
    assert sha256_of(data) == job.payload_sha256


@pytest.mark.parametrize("size", [10, 2 * MIB + 1])
def test_an_optimised_model_comes_back(server, agent, jobs, database, size, sha256_of):
    board = agent(server).ready()
    (id_,) = jobs.put(kind="optimise", options={"hollow": False})
    lease = board.expect("job").lease
    data = bytes(i % 251 for i in range(size))
    if size <= MIB:
        board.answer(lease, {}, payload=data)
    else:
        chunks = [data[start : start + MIB] for start in range(0, size, MIB)]
        header = device_pb2.UploadPayloadRequest(header={"lease": lease, "size_bytes": size})
        messages = [header, *(device_pb2.UploadPayloadRequest(chunk=chunk) for chunk in chunks)]
        sha256 = board.stub.UploadPayload(iter(messages), timeout=60).sha256
        board.answer(lease, {}, payload_sha256=sha256)
    board.expect("taken")
    job = jobs.job(id_)
    assert (job.state, job.failure, job.result_sha256) == ("done", None, sha256_of(data))
    assert database.artefacts.read(job.result_sha256) == data


def test_a_second_answer_changes_nothing(server, agent, jobs, measured):
    board = agent(server).ready()
    (id_,) = jobs.put()
    lease = board.expect("job").lease
    board.answer(lease)
    other = {**measured, "probe_best_ms": 9.0}
    board.answer(lease, other)
    board.answer(lease, None, failure="It fell over.")
    assert [board.expect("taken").lease for _ in range(3)] == [lease] * 3
    assert jobs.job(id_).result == measured


def test_an_answer_of_another_device_changes_nothing(server, agent, jobs):
    board, thief = agent(server).ready(), agent(server, "thief").ready()
    (id_,) = jobs.put()
    lease = board.expect("job").lease
    thief.answer(lease)
    thief.expect("taken")
    assert jobs.job(id_).state == "leased"
    board.answer(lease)
    board.expect("taken")
    assert jobs.job(id_).state == "done"


def test_an_answer_to_nothing_is_forgotten(server, agent):
    board = agent(server).ready()
    board.answer("0" * 32)
    assert board.expect("taken").lease == "0" * 32


def test_a_failure_is_tried_again_a_bounded_number_of_times(server, agent, jobs):
    board = agent(server).ready()
    (id_,) = jobs.put(max_tries=3)
    for tries in (1, 2, 3):
        lease = board.expect("job").lease
        assert jobs.job(id_).tries == tries
        board.answer(lease, None, failure="The machine\nwas busy.", retry=True)
        board.expect("taken")
    assert jobs.job(id_).state == "failed"
    assert "The machine was busy." in jobs.job(id_).failure


def test_what_cannot_run_is_not_tried_again(server, agent, jobs):
    board = agent(server).ready()
    (id_,) = jobs.put()
    board.answer(board.expect("job").lease, None, failure="No such operator.")
    board.expect("taken")
    assert (jobs.job(id_).state, jobs.job(id_).failure) == ("failed", "No such operator.")


def test_a_visit_that_failed_fails_the_job(server, agent, jobs, measured):
    board = agent(server).ready()
    (id_,) = jobs.put()
    failed = {**measured["visits"][0], "latency_ms": None, "error": "No such operator."}
    board.answer(board.expect("job").lease, {"visits": [failed], "probe_best_ms": None})
    board.expect("taken")
    assert (jobs.job(id_).state, jobs.job(id_).failure) == ("failed", "No such operator.")


VISIT = {"latency_ms": 1.0, "runs": 3}


@pytest.mark.parametrize(
    ("kind", "text", "fields"),
    [
        ("measure", "", {}),
        ("measure", "[1", {}),
        ("measure", "[]", {}),
        ("measure", "[" * 100_000, {}),
        ("measure", '{"visits": [{"latency_ms": NaN}], "probe_best_ms": 1}', {}),
        ("measure", '{"visits": [{"latency_ms": 1e999}], "probe_best_ms": 1}', {}),
        ("measure", '{"visits": [{"latency_ms": "1"}], "probe_best_ms": 1}', {}),
        ("measure", '{"visits": [{"latency_ms": 1.0, "note": "\\ud800"}]}', {}),
        ("measure", '{"visits": [{"latency_ms": 1.0, "note": "\\u0000"}]}', {}),
        ("measure", json.dumps({"visits": []}), {}),
        ("measure", json.dumps({"visits": [VISIT, VISIT]}), {}),
        ("measure", json.dumps({"visits": [{**VISIT, "latency_ms": -1}]}), {}),
        ("measure", json.dumps({"visits": [{**VISIT, "runs": 10**12}]}), {}),
        ("measure", json.dumps({"visits": [{**VISIT, "runs": True}]}), {}),
        ("measure", json.dumps({"visits": [VISIT], "probe_best_ms": "fast"}), {}),
        ("optimise", "{}", {}),
        ("optimise", "{}", {"payload_sha256": "0" * 64}),
        ("optimise", "{}", {"payload": b"x", "payload_sha256": "0" * 64}),
        ("shapes", "{}", {}),
        ("shapes", json.dumps({"shapes": {"x": [[1], "float32"]}}), {}),
        ("shapes", json.dumps({"shapes": {"x": [["1"], "float32", None]}}), {}),
    ],
)
def test_an_answer_that_cannot_be_used_fails_its_try(server, agent, jobs, kind, text, fields):
    board = agent(server).ready()
    (id_,) = jobs.put(kind=kind, options={}, max_tries=1)
    lease = board.expect("job").lease
    board.say(outcome={"lease": lease, "result_json": text, **fields})
    assert board.expect("taken").lease == lease  # sent again it would be no better
    assert jobs.job(id_).state == "failed"
    assert "cannot be used" in jobs.job(id_).failure


def test_shapes_are_kept_as_they_are(server, agent, jobs):
    board = agent(server).ready()
    (id_,) = jobs.put(kind="shapes", options={"run": True})
    result = {"shapes": {"x": [[1, 3], "float32", None], "n": [[], "int64", [7]]}}
    board.answer(board.expect("job").lease, result)
    board.expect("taken")
    assert jobs.job(id_).result == result


def test_a_lost_file_fails_its_job_and_no_other(server, agent, jobs, database):
    (lost,), (good,) = jobs.put(data=b"lost"), jobs.put(data=b"good")
    database.artefacts.discard(jobs.job(lost).payload_sha256)
    board = agent(server).ready()
    assert board.expect("job").payload == b"good"
    assert "missing" in jobs.wait(lost, "failed").failure
    assert jobs.job(good).state == "leased"


def test_devices_of_one_model_share_its_jobs(server, agent, jobs):
    boards = [agent(server, f"pi4-{i}", model="pi4", capacity=4).ready() for i in range(3)]
    for board in boards:  # all are there before there is work
        jobs.put(board.name)
        board.answer(board.expect("job").lease)
        board.expect("taken")
    ids = jobs.put("pi4", count=6)
    for board in boards:
        for _ in range(2):
            board.expect("job")
    assert {jobs.job(id_).lease_device for id_ in ids} == {"pi4-0", "pi4-1", "pi4-2"}


def test_a_cancelled_job_is_dropped_at_once(server, agent, jobs, measure):
    board = agent(server).ready()
    (id_,) = jobs.put()
    lease = board.expect("job").lease
    board.beat(lease)
    measure.CancelJobs(_ids(id_), timeout=60)
    assert list(board.expect("drop").leases) == [lease]
    board.answer(lease)
    board.expect("taken")
    assert (jobs.job(id_).state, jobs.job(id_).result) == ("cancelled", None)


def _ids(*ids):
    return measure_pb2.CancelJobsRequest(ids=map(str, ids))


def test_jobs_that_an_agent_gives_back_do_not_count_as_tried(server, agent, jobs):
    board = agent(server, capacity=3).ready()
    ids = jobs.put(count=3)
    leases = [board.expect("job").lease for _ in range(3)]
    board.beat(*leases)
    board.beat(leases[0])
    for _ in ids[1:]:
        board.expect("job")
    assert [jobs.job(id_).tries for id_ in ids] == [1, 1, 1]


def test_an_agent_that_was_started_anew_loses_its_jobs_at_once(server, agent, jobs):
    first = agent(server, capacity=2).ready()
    ids = jobs.put(count=2)
    old = [first.expect("job").lease for _ in ids]
    first.cut()
    second = agent(server, capacity=2, register=False).ready()  # holds nothing
    new = [second.expect("job").lease for _ in ids]
    assert not set(old) & set(new)
    # Only the first of them can have been what it was at.
    assert sorted(jobs.job(id_).tries for id_ in ids) == [1, 2]


def test_an_agent_that_was_cut_off_keeps_its_jobs(server, agent, jobs, measured):
    first = agent(server, capacity=2).ready()
    ids = jobs.put(count=2)
    leases = [first.expect("job").lease for _ in ids]
    first.cut()
    second = agent(server, capacity=2, register=False)
    second.expect("welcome")
    second.answer(leases[0])  # was done meanwhile
    second.beat(leases[1])
    second.expect("taken")
    second.answer(leases[1])
    second.expect("taken")
    assert [(jobs.job(id_).state, jobs.job(id_).tries) for id_ in ids] == [("done", 1)] * 2


class TestLeases:
    def test_the_jobs_of_a_silent_device_go_to_another(self, start, database, hasty, agent, jobs):
        server = start(database, hasty)
        silent = agent(server, "pi4-0", model="pi4").ready()
        (id_,) = jobs.put("pi4")
        old = silent.next_job().lease
        silent.cut()
        other = agent(server, "pi4-1", model="pi4").ready()
        new = other.next_job()
        assert (jobs.job(id_).lease_device, jobs.job(id_).tries) == ("pi4-1", 2)
        other.answer(new.lease)
        other.expect("taken")
        back = agent(server, "pi4-0", register=False).ready()
        back.answer(old, None, failure="Too late.")
        back.expect("taken")
        assert jobs.job(id_).state == "done"

    def test_heartbeats_keep_a_job(self, start, database, hasty, agent, jobs):
        server = start(database, hasty)
        board = agent(server).ready()
        (id_,) = jobs.put()
        lease = board.next_job().lease
        first = jobs.job(id_).lease_expires_at
        while (jobs.job(id_).lease_expires_at - first).total_seconds() < 3 * hasty.lease_s:
            board.beat(lease)
        assert (jobs.job(id_).state, jobs.job(id_).lease) == ("leased", lease)

    def test_a_late_answer_is_taken_while_nobody_else_has_the_job(self, start, database, hasty, agent, jobs, measured):
        server = start(database, hasty)
        board = agent(server).ready()
        (id_,) = jobs.put()
        lease = board.next_job().lease
        board.cut()
        jobs.wait(id_, "queued")
        back = agent(server, register=False)
        back.expect("welcome")
        back.answer(lease)
        back.expect("taken")
        assert jobs.job(id_).result == measured

    def test_a_job_that_brings_devices_down_is_set_aside(self, start, database, hasty, agent, jobs):
        server = start(database, hasty)
        (id_,) = jobs.put(max_tries=3)
        for _ in range(3):
            board = agent(server).ready()
            board.next_job()
            board.cut()
            jobs.wait(id_, "queued", "failed")
        assert "Set aside after 3 tries" in jobs.wait(id_, "failed").failure

    def test_leases_that_run_out_are_told(self, start, database, hasty, agent, jobs, until):
        told = []
        server = start(database, replace(hasty, on_expired=told.append))
        board = agent(server).ready()
        (id_,) = jobs.put()
        board.next_job()
        board.cut()
        jobs.wait(id_, "queued")
        until(lambda: told == [1])


STOP = "0" * 32


def work(board):
    """Answer every job until told to stop; the leases that were taken."""
    taken = []
    while (message := board.hear()).taken.lease != STOP:
        if message.HasField("job"):
            board.answer(message.job.lease)
        else:
            taken.append(message.taken.lease)
    return taken


class TestTwoServers:
    def test_each_job_is_done_once(self, start, url, open_database, config, agent, queue_of):
        databases = [open_database(url) for _ in range(2)]
        servers = [start(database, config) for database in databases]
        boards = [agent(server, f"pi4-{i}", model="pi4", capacity=3) for i, server in enumerate(servers * 2)]
        jobs = queue_of(databases[0])
        ids = jobs.put("pi4", count=40)
        for board in boards:
            board.ready()
        with ThreadPoolExecutor(len(boards)) as pool:
            working = [pool.submit(work, board) for board in boards]
            found = [jobs.wait(id_, "done") for id_ in ids]
            for board in boards:
                board.answer(STOP)
            taken = [lease for each in working for lease in each.result(60)]
        assert {job.tries for job in found} == {1}
        assert sorted(taken) == sorted(job.lease for job in found)

    def test_an_agent_resumes_at_the_other_server(self, start, url, open_database, config, agent, queue_of):
        first, second = (start(open_database(url), config) for _ in range(2))
        jobs = queue_of(open_database(url))
        board = agent(first).ready()
        (id_,) = jobs.put()
        lease = board.expect("job").lease
        board.cut()
        moved = agent(second).ready(lease)
        moved.answer(lease)
        assert moved.expect("taken").lease == lease
        assert (jobs.job(id_).state, jobs.job(id_).tries) == ("done", 1)

    def test_a_newer_stream_at_the_other_server_ends_the_older_one(self, start, url, open_database, config, agent):
        first, second = (start(open_database(url), config) for _ in range(2))
        board = agent(first).ready()
        agent(second).ready()
        goodbye = board.expect("goodbye")
        assert not goodbye.reconnect
        assert "newer stream" in goodbye.reason
        board.ended()

    def test_cancelled_at_the_other_server(self, start, url, open_database, config, agent, queue_of):
        first, second = (start(open_database(url), config) for _ in range(2))
        board = agent(first).ready()
        (id_,) = queue_of(open_database(url)).put()
        lease = board.expect("job").lease
        with grpc.insecure_channel(second.address) as channel:
            measure_pb2_grpc.MeasureServiceStub(channel).CancelJobs(_ids(id_), timeout=60)
        assert list(board.expect("drop").leases) == [lease]
