"""The running service: health, reflection, many clients, and how it ends."""

import logging
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from milliseek.client import Client
from milliseek.errors import ServiceError
from milliseek.rpc.limits import ServiceLimits
from milliseek.rpc.server import SERVICE_NAME, InProcessServer
from milliseek.rpc.v1 import latency_pb2, latency_pb2_grpc

TARGET = "local/onnxruntime/int8"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def stub(channel):
    return latency_pb2_grpc.LatencyServiceStub(channel)


@pytest.mark.parametrize("service", ["", SERVICE_NAME])
def test_health_answers(channel, service):
    request = health_pb2.HealthCheckRequest(service=service)
    assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=30).status == SERVING


def test_reflection_describes_the_service(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "milliseek.rpc.v1.LatencyService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    service = DescriptorPool(database).FindServiceByName("milliseek.rpc.v1.LatencyService")
    assert service.methods_by_name["PredictSubnets"].input_type.fields_by_name["genes"].is_packed


def test_errors_can_be_read_with_the_standard_tools(stub):
    with pytest.raises(grpc.RpcError) as failed:
        stub.PredictModel(latency_pb2.PredictModelRequest(sha256="0" * 64, target="NotReady"), timeout=30)
    rich = rpc_status.from_call(failed.value)
    assert rich.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert rich.details[0].type_url == "type.googleapis.com/google.rpc.ErrorInfo"


@pytest.mark.parametrize("method", ["predict", "latency_table"])
def test_a_bug_is_logged_and_its_text_stays_here(client, caplog, method):
    arguments = {"predict": ("0" * 64, "bug"), "latency_table": ("small32", "bug")}[method]
    with caplog.at_level(logging.ERROR, "milliseek.rpc"), pytest.raises(ServiceError) as raised:
        getattr(client, method)(*arguments)
    assert "failed with INTERNAL" in raised.value.message
    assert "secret" not in str(raised.value)
    record = next(record for record in caplog.records if record.name == "milliseek.rpc.interceptor")
    assert "secret of the server" in str(record.exc_info[1])
    assert record.args[1] in raised.value.message  # the incident number


@pytest.mark.parametrize(
    ("request_fields", "reason"),
    [
        ({"sha256": "", "target": TARGET}, "not 64 lower-case hexadecimal digits"),
        ({"sha256": "A" * 64, "target": TARGET}, "not 64 lower-case hexadecimal digits"),
        ({"sha256": "0" * 64 + "\n", "target": TARGET}, "not 64 lower-case hexadecimal digits"),
        ({"sha256": "0" * 64}, "names no target"),
        ({"sha256": "0" * 64, "target": "t" * 201}, "too long for a target"),
    ],
)
def test_requests_for_a_model_are_validated(stub, request_fields, reason):
    with pytest.raises(grpc.RpcError, match=reason) as failed:
        stub.PredictModel(latency_pb2.PredictModelRequest(**request_fields), timeout=30)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_fields", "code", "reason"),
    [
        ({"genes_per_subnet": 0, "genes": [1]}, "INVALID_ARGUMENT", "0 genes per subnet"),
        ({"genes_per_subnet": 3, "genes": [1] * 4}, "INVALID_ARGUMENT", "not a whole number of subnets"),
        ({"genes_per_subnet": 2, "genes": [1] * 22}, "RESOURCE_EXHAUSTED", "11 subnets with 22 genes"),
        ({"genes_per_subnet": 51, "genes": [1] * 51}, "RESOURCE_EXHAUSTED", "1 subnets with 51 genes"),
        ({"space": "", "genes_per_subnet": 1}, "INVALID_ARGUMENT", "names no space"),
    ],
)
def test_requests_for_subnets_are_validated(backend, request_fields, code, reason):
    request = latency_pb2.PredictSubnetsRequest(**{"space": "small32", "target": TARGET, **request_fields})
    batch = latency_pb2.StreamPredictSubnetsRequest(batch=request)
    limits = ServiceLimits(subnets=10, genes=50)
    with InProcessServer(backend, limits=limits) as server, grpc.insecure_channel(server.address) as channel:
        stub = latency_pb2_grpc.LatencyServiceStub(channel)
        for call in (
            lambda: stub.PredictSubnets(request, timeout=30),
            lambda: list(stub.StreamPredictSubnets(iter([batch]), timeout=30)),
        ):
            with pytest.raises(grpc.RpcError, match=reason) as failed:
                call()
            assert failed.value.code().name == code


@pytest.mark.parametrize(
    ("request_fields", "code", "reason"),
    [
        ({"kernels": ["k"] * 4}, "RESOURCE_EXHAUSTED", "4 kernels"),
        ({"kernels": ["k", "ü" * 6]}, "RESOURCE_EXHAUSTED", "Kernel 1 of the request has 12 bytes"),
        ({"target": ""}, "INVALID_ARGUMENT", "names no target"),
    ],
)
def test_requests_for_kernels_are_validated(backend, request_fields, code, reason):
    request = latency_pb2.PredictKernelsRequest(**{"target": TARGET, **request_fields})
    limits = ServiceLimits(kernels=3, kernel_bytes=10)
    with InProcessServer(backend, limits=limits) as server, grpc.insecure_channel(server.address) as channel:
        stub = latency_pb2_grpc.LatencyServiceStub(channel)
        with pytest.raises(grpc.RpcError, match=reason) as failed:
            stub.PredictKernels(request, timeout=30)
        assert failed.value.code().name == code
        fitting = latency_pb2.PredictKernelsRequest(target=TARGET, kernels=["ü" * 5, "k", ""])
        assert len(stub.PredictKernels(fitting, timeout=30).kernels) == 3


def test_a_stream_of_models_ends_with_the_first_that_fails(stub, backend):
    sha256 = backend.store_model(b"network", "net.onnx")
    asked = [{"sha256": sha256, "target": TARGET}, {"sha256": "0" * 64, "target": TARGET}, {}]
    requests = [latency_pb2.StreamPredictModelsRequest(request=request) for request in asked]
    answers = stub.StreamPredictModels(iter(requests), timeout=30)
    assert next(answers).response.prediction.latency_ms == 0.007
    with pytest.raises(grpc.RpcError, match="There is no model 0000"):
        next(answers)


def test_a_stream_answers_batch_by_batch(stub):
    answered = threading.Event()

    def batches():
        for count in (1, 0, 3):
            genes = [2] * count
            yield latency_pb2.StreamPredictSubnetsRequest(
                batch={"space": "small32", "target": TARGET, "genes_per_subnet": 1, "genes": genes}
            )
            assert answered.wait(30)  # the next batch is sent only after an answer: nothing waits for the end
            answered.clear()

    counts = []
    for response in stub.StreamPredictSubnets(batches(), timeout=30):
        counts.append(len(response.batch.latency_ms))
        answered.set()
    assert counts == [1, 0, 3]


def test_two_clients_at_once_while_a_third_waits(server, backend, client):
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 9, (2000, 20)) for _ in range(2)]

    def ask(genes):
        with Client(server.address) as own:
            return [own.predict_subnets("small32", TARGET, genes).latency_ms for _ in range(10)]

    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(client.latency_table, "small32", "slow")
        assert backend.entered.wait(30)
        answers = list(pool.map(ask, arrays))
        assert not slow.done()
        backend.release.set()
        assert slow.result(30).target == "slow"
    for genes, own in zip(arrays, answers, strict=True):
        expected = backend.predict_subnets("small32", TARGET, genes.astype(np.int32)).latency_ms
        assert all(np.array_equal(latency_ms, expected) for latency_ms in own)


class TestStopping:
    def test_idle_with_a_client_connected(self, backend):
        server = InProcessServer(backend)
        server.start()
        with Client(server.address) as client:
            client.targets()
            server.stop()
            server.stop()
            with pytest.raises(ServiceError, match=server.address):
                client.targets()
        assert not [thread for thread in threading.enumerate() if thread.name == "milliseek-rpc-server"]

    def test_never_started(self, backend):
        InProcessServer(backend).stop()

    def test_one_after_another(self, new_backend):
        for _ in range(3):
            with InProcessServer(new_backend()) as server, Client(server.address) as client:
                assert client.targets()

    def test_two_at_the_same_time(self, new_backend):
        with InProcessServer(new_backend(rows=1)) as first, InProcessServer(new_backend(rows=2)) as second:
            assert first.address != second.address
            for server, rows in ((first, 1), (second, 2), (first, 1)):
                with Client(server.address) as client:
                    assert len(client.latency_table("small32", TARGET).keys) == rows

    def test_calls_under_way_are_answered_and_health_says_so(self, backend):
        server = InProcessServer(backend, grace_s=60)
        server.start()
        with Client(server.address) as client, grpc.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == SERVING
            with ThreadPoolExecutor(2) as pool:
                slow = pool.submit(client.latency_table, "small32", "slow")
                assert backend.entered.wait(30)
                stopping = pool.submit(server.stop)
                assert next(watch).status == NOT_SERVING
                watch.cancel()
                assert not slow.done()
                backend.release.set()
                assert slow.result(30).target == "slow"
                stopping.result(30)

    def test_calls_that_outlast_the_grace_are_cut_off(self, backend):
        server = InProcessServer(backend, grace_s=0)
        server.start()
        with Client(server.address) as client, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(client.latency_table, "small32", "slow")
            assert backend.entered.wait(30)
            server.stop()
            with pytest.raises(ServiceError):
                slow.result(30)


SERVE = """
import sys
from milliseek.results import TargetInfo
from milliseek.rpc.server import serve

class Backend:
    def targets(self):
        print("asked", flush=True)
        sys.stdin.readline()
        return [TargetInfo("t", "t@1", "1")]

serve(Backend(), "127.0.0.1:0", on_ready=lambda address: print(address, flush=True), grace_s=60)
print("drained", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_on_a_signal(number):
    command = [sys.executable, "-P", "-W", "error", "-c", SERVE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        address = process.stdout.readline().strip()
        with (
            Client(address, timeout_s=60) as client,
            grpc.insecure_channel(address) as channel,
            ThreadPoolExecutor(1) as pool,
        ):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == SERVING
            answer = pool.submit(client.targets)
            assert process.stdout.readline() == "asked\n"
            process.send_signal(number)
            assert next(watch).status == NOT_SERVING
            watch.cancel()
            process.stdin.write("\n")
            process.stdin.flush()
            assert answer.result(30)[0].name == "t"
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("drained\n", "", 0)


@pytest.mark.parametrize(("kind", "method"), [("unary_unary", "PredictModel"), ("stream_unary", "UploadModel")])
def test_bytes_that_are_no_message_are_the_fault_of_the_client(channel, caplog, kind, method):
    call = getattr(channel, kind)(f"/{SERVICE_NAME}/{method}")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\xff\xff" if kind == "unary_unary" else iter([b"\xff\xff"]), timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a message of this method" in refused.value.details()
    assert "Traceback" not in caplog.text
