"""MeasureService: uploaded models become jobs, and callers learn what came out."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milliseek.db.devices import upsert_device
from milliseek.db.jobs import list_jobs
from milliseek.db.tokens import create_token
from milliseek.errors import ServiceError
from milliseek.kernels.onnx.quantise import quantise_for_timing
from milliseek.predictors.networks.files import store_network
from milliseek.rpc.access.access import Access
from milliseek.rpc.access.live_tokens import LiveTokens
from milliseek.rpc.fleet.submissions import Submissions
from milliseek.rpc.v1 import measure_pb2, measure_pb2_grpc

TARGET = "pi4-kitchen/onnxruntime/fp32"
DONE, FAILED, QUEUED = measure_pb2.JOB_STATE_DONE, measure_pb2.JOB_STATE_FAILED, measure_pb2.JOB_STATE_QUEUED
LEASED, CANCELLED = measure_pb2.JOB_STATE_LEASED, measure_pb2.JOB_STATE_CANCELLED

on_each = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


def network(channels=8):
    """A convolution with a ReLU."""
    weights = numpy_helper.from_array(np.ones((channels, 3, 3, 3), np.float32), "weights")
    nodes = [helper.make_node("Conv", ["x", "weights"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, channels, 6, 6])
    graph = helper.make_graph(nodes, "small", [x], [z], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


@pytest.fixture
def model(database):
    return store_network(database, network(), "small.onnx")


def new(key, sha256, **fields):
    return {"idempotency_key": key, "target": TARGET, "sha256": sha256, **fields}


def submit(stub, *jobs, **options):
    request = measure_pb2.SubmitJobsRequest(jobs=jobs)
    return list(stub.SubmitJobs(request, **{"timeout": 60, **options}).jobs)


def get(stub, *ids):
    return list(stub.GetJobs(measure_pb2.GetJobsRequest(ids=ids), timeout=60).jobs)


def cancel(stub, *ids, **options):
    request = measure_pb2.CancelJobsRequest(ids=ids)
    return list(stub.CancelJobs(request, **{"timeout": 60, **options}).jobs)


def refused(call, code, words=None):
    with pytest.raises(grpc.RpcError, match=words) as failed:
        call()
    assert failed.value.code().name == code, failed.value


@on_each
def test_a_model_is_measured(agent, server, measure, model, database, measured):
    board = agent(server).ready()
    (job,) = submit(measure, new("first", model, visits=1, priority=7))
    assert (job.idempotency_key, job.target, job.sha256, job.priority) == ("first", TARGET, model, 7)
    assert (job.user, job.device, job.failure, list(job.visits)) == ("", "", "", [])
    assert job.created_at.seconds
    assert not job.HasField("ended_at")
    assignment = board.expect("job")
    assert assignment.target == TARGET
    assert assignment.time_limit_s > 60
    board.answer(assignment.lease)
    board.expect("taken")
    (done,) = get(measure, job.id)
    assert (done.state, done.device, done.tries) == (DONE, "pi4-kitchen", 1)
    (visit,) = done.visits
    assert {field.name: value for field, value in visit.ListFields()} == {
        name: value for name, value in measured["visits"][0].items() if value
    }
    assert done.ended_at.ToNanoseconds() > done.created_at.ToNanoseconds()


def test_an_int8_target_gets_an_int8_file(agent, server, measure, model):
    board = agent(server).ready()
    submit(measure, new("first", model, target="pi4-kitchen/onnxruntime/int8"))
    graph = onnx.load_from_string(board.expect("job").payload).graph
    assert any("Q" in node.op_type for node in graph.node)


@on_each
def test_submitting_again_is_harmless(agent, server, measure, model):
    agent(server)
    first = submit(measure, new("a", model), new("b", model, visits=3))
    again = submit(measure, new("b", model, visits=3), new("a", model))
    assert [job.id for job in again] == [job.id for job in reversed(first)]
    for changed in ({"visits": 4}, {"priority": 1}, {"sha256": "0" * 64}, {"target": "pi4-kitchen/onnxruntime/int8"}):
        refused(lambda changed=changed: submit(measure, {**new("a", model), **changed}), "INVALID_ARGUMENT", "key")
    assert len(get(measure, *(job.id for job in first))) == 2


@on_each
def test_many_submit_the_same_at_once(agent, server, measure, model):
    agent(server)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: submit(measure, new("same", model))[0].id, range(16)))
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"idempotency_key": ""}, "INVALID_ARGUMENT", "idempotency key"),
        ({"idempotency_key": "k" * 101}, "INVALID_ARGUMENT", "idempotency key"),
        ({"idempotency_key": "a\0"}, "INVALID_ARGUMENT", "idempotency key"),
        ({"sha256": "abc"}, "INVALID_ARGUMENT", "SHA-256"),
        ({"sha256": "0" * 64}, "NOT_FOUND", "was uploaded"),
        ({"visits": 101}, "INVALID_ARGUMENT", "visits"),
        ({"priority": -101}, "INVALID_ARGUMENT", "priority"),
        ({"target": ""}, "INVALID_ARGUMENT", "no target"),
        ({"target": "pi4-kitchen"}, "INVALID_ARGUMENT", "not a target"),
        ({"target": "pi4-kitchen/onnxruntime/int4"}, "INVALID_ARGUMENT", "int4"),
        ({"target": "pi4-kitchen/tensorrt/fp32"}, "NOT_FOUND", "tensorrt"),
        ({"target": "pi9/onnxruntime/fp32"}, "NOT_FOUND", "pi9"),
        ({"target": "local/onnxruntime/fp32"}, "FAILED_PRECONDITION", "no agent"),
    ],
)
def test_jobs_are_checked_and_none_is_made(agent, server, measure, model, fields, code, words):
    agent(server)
    refused(lambda: submit(measure, new("good", model), {**new("bad", model), **fields}), code, words)
    assert not measure.ListJobs(measure_pb2.ListJobsRequest(), timeout=60).jobs


def test_files_must_suit_the_target(agent, server, measure, database):
    agent(server)
    int8 = store_network(database, quantise_for_timing(network(), 7), "quantised.onnx")
    refused(lambda: submit(measure, new("a", int8)), "INVALID_ARGUMENT", "quantised.onnx is a quantised file")
    lite = new("a", int8, target="pi4-kitchen/litert/int8")
    refused(lambda: submit(measure, lite), "INVALID_ARGUMENT", "cannot be converted")


def test_a_device_without_an_agent_takes_no_jobs(server, measure, model, database):
    with database.session() as session:
        upsert_device(session, "pixel6", "imported", {})
    refused(lambda: submit(measure, new("a", model, target="pixel6/onnxruntime/fp32")), "NOT_FOUND", "pixel6")


@pytest.mark.parametrize("count", [0, 1001])
def test_the_number_of_jobs_is_bounded(measure, count):
    code = "RESOURCE_EXHAUSTED" if count else "INVALID_ARGUMENT"
    refused(lambda: submit(measure, *[new(f"{i}", "0" * 64) for i in range(count)]), code)
    refused(lambda: get(measure, *map(str, range(1, count + 1))), code)


@pytest.mark.parametrize("id_", ["", "0", "-1", "x", "1" * 19, "\u0661"])
def test_ids_are_checked(measure, id_):
    refused(lambda: get(measure, id_), "INVALID_ARGUMENT", "not the id of a job")


def test_what_is_unknown_is_not_found(measure):
    refused(lambda: get(measure, "12345"), "NOT_FOUND")
    refused(lambda: cancel(measure, "12345"), "NOT_FOUND")
    refused(lambda: list(measure.WatchJobs(measure_pb2.WatchJobsRequest(ids=["12345"]), timeout=60)), "NOT_FOUND")


@on_each
def test_jobs_are_listed_page_by_page(agent, server, measure, model):
    agent(server)
    int8 = "pi4-kitchen/onnxruntime/int8"
    made = submit(measure, *[new(f"{i}", model, **({"target": int8} if i % 3 else {})) for i in range(9)])
    cancel(measure, made[0].id)

    def listed(**fields):
        ids, token = [], ""
        while True:
            request = measure_pb2.ListJobsRequest(page_size=2, page_token=token, **fields)
            page = measure.ListJobs(request, timeout=60)
            ids += [job.id for job in page.jobs]
            if not (token := page.next_page_token):
                return ids

    assert listed() == [job.id for job in made]
    assert listed(target=TARGET) == [made[i].id for i in (0, 3, 6)]
    assert listed(target=f"{TARGET}/1t", state=QUEUED) == [made[i].id for i in (3, 6)]
    assert listed(state=CANCELLED) == [made[0].id]
    refused(lambda: listed(state=77), "INVALID_ARGUMENT", "not the state")
    refused(lambda: listed(target="nonsense"), "INVALID_ARGUMENT", "not a target")
    refused(
        lambda: measure.ListJobs(measure_pb2.ListJobsRequest(page_token="ZGV2aWNlczox"), timeout=60),  # of devices
        "INVALID_ARGUMENT",
        "none of this list",
    )


def test_nothing_is_prepared_for_those_who_have_gone(agent, server, database, model):
    agent(server)
    gone = threading.Event()
    gone.set()
    submissions = Submissions(database)
    with pytest.raises(ServiceError, match="Nobody waits"):
        submissions.submit([measure_pb2.NewJob(**new("a", model))], "", gone)
    submissions.close()
    with database.session(read_only=True) as session:
        assert list_jobs(session) == []


@on_each
class TestWatching:
    def watch(self, measure, *ids):
        return measure.WatchJobs(measure_pb2.WatchJobsRequest(ids=ids), timeout=60)

    def test_every_change_is_told_until_all_have_ended(self, agent, server, measure, model):
        board = agent(server, capacity=1)
        made = submit(measure, new("a", model), new("b", model))
        watching = self.watch(measure, *(job.id for job in made))
        assert [(next(watching).job.state) for _ in made] == [QUEUED] * 2
        board.ready()
        told = []
        for _ in made:
            told.append(next(watching).job)
            board.answer(board.expect("job").lease)
            board.expect("taken")
            told.append(next(watching).job)
        assert [(job.id, job.state) for job in told[:2]] == [(made[0].id, LEASED), (made[0].id, DONE)]
        rest = {(job.id, job.state) for job in [*told[2:], *(each.job for each in watching)]}
        assert (made[1].id, DONE) in rest

    def test_what_has_ended_is_told_once(self, agent, server, measure, model):
        agent(server)
        (job,) = submit(measure, new("a", model))
        cancel(measure, job.id)
        assert [each.job.state for each in self.watch(measure, job.id, job.id)] == [CANCELLED]

    def test_what_another_server_did_is_told(self, start, url, open_database, config, agent, measure, model):
        other = start(open_database(url), config)
        board = agent(other)
        (job,) = submit(measure, new("a", model))
        watching = self.watch(measure, job.id)
        assert next(watching).job.state == QUEUED
        board.ready()
        board.answer(board.expect("job").lease)
        states = [each.job.state for each in watching]
        assert states[-1] == DONE

    def test_watchers_are_sent_away_when_the_server_ends(self, start, database, config, agent, model):
        server = start(database, config, grace_s=60)
        agent(server)
        with grpc.insecure_channel(server.address) as channel:
            measure = measure_pb2_grpc.MeasureServiceStub(channel)
            (job,) = submit(measure, new("a", model))
            watching = self.watch(measure, job.id)
            next(watching)
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            refused(lambda: next(watching), "UNAVAILABLE", "going down")
            stopping.join(60)
            assert not stopping.is_alive()


class TestCancelling:
    def test_it_cannot_be_undone_and_comes_too_late_for_what_is_done(self, agent, server, measure, model):
        board = agent(server, capacity=1).ready()
        made = submit(measure, new("a", model), new("b", model))
        board.answer(board.expect("job").lease)
        board.expect("taken")
        board.expect("job")
        states = [job.state for job in cancel(measure, *(job.id for job in made))]
        assert states == [DONE, CANCELLED]
        board.expect("drop")

    def test_only_their_user_or_an_administrator_cancels_jobs(self, start, database, config, model, agent):
        metadata = {}
        with database.session() as session:
            for name, scope in (("root", "admin"), ("alice", "search"), ("bob", "search")):
                metadata[name] = (("authorization", f"Bearer {create_token(session, name, scope)[1]}"),)
        server = start(database, config, access=Access(tokens=LiveTokens(database)))
        agent(server, metadata=metadata["root"])
        with grpc.insecure_channel(server.address) as channel:
            measure = measure_pb2_grpc.MeasureServiceStub(channel)
            made = submit(measure, new("a", model), new("b", model), metadata=metadata["alice"])
            (other,) = submit(measure, new("a", model), metadata=metadata["bob"])
            assert other.id not in [job.id for job in made]  # keys are a user's own
            assert [job.user for job in (*made, other)] == ["alice", "alice", "bob"]
            for ids in ([made[0].id], [other.id, made[0].id]):
                with pytest.raises(grpc.RpcError, match="not one of 'bob'") as failed:
                    cancel(measure, *ids, metadata=metadata["bob"])
                assert failed.value.code().name == "PERMISSION_DENIED"
            request = measure_pb2.GetJobsRequest(ids=[other.id])
            assert measure.GetJobs(request, timeout=60, metadata=metadata["alice"]).jobs[0].state == QUEUED
            assert cancel(measure, made[0].id, metadata=metadata["alice"])[0].state == CANCELLED
            assert cancel(measure, other.id, metadata=metadata["root"])[0].state == CANCELLED


def test_users_of_one_device_take_turns(start, database, config, model, agent):
    metadata = {}
    with database.session() as session:
        for name in ("alice", "bob"):
            metadata[name] = (("authorization", f"Bearer {create_token(session, name, 'search')[1]}"),)
        metadata["root"] = (("authorization", f"Bearer {create_token(session, 'root', 'admin')[1]}"),)
    server = start(database, config, access=Access(tokens=LiveTokens(database)))
    board = agent(server, capacity=1, metadata=metadata["root"])
    with grpc.insecure_channel(server.address) as channel:
        measure = measure_pb2_grpc.MeasureServiceStub(channel)
        crowd = submit(measure, *[new(f"{i}", model) for i in range(6)], metadata=metadata["alice"])
        few = submit(measure, *[new(f"{i}", model) for i in range(2)], metadata=metadata["bob"])
        board.ready()
        order = []
        for _ in range(4):
            lease = board.expect("job").lease
            request = measure_pb2.ListJobsRequest(state=LEASED)
            (held,) = measure.ListJobs(request, timeout=60, metadata=metadata["root"]).jobs
            order.append(held.user)
            board.answer(lease)
            board.expect("taken")
        assert sorted(order) == ["alice", "alice", "bob", "bob"]
        assert len(crowd) + len(few) == 8
