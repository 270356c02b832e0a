"""The figures that Prometheus reads."""

import socket
import time
import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from milliseek.db import counts
from milliseek.db.artefacts import save_artefact
from milliseek.db.devices import touch_device, upsert_device
from milliseek.db.engine import Database
from milliseek.db.jobs import NewJob, lease_jobs, submit_jobs
from milliseek.errors import Busy, InvalidInput, StorageError
from milliseek.rpc.metrics import Metrics
from milliseek.rpc.server import InProcessServer
from milliseek.rpc.v1 import latency_pb2, latency_pb2_grpc

LIST = "/milliseek.rpc.v1.LatencyService/ListTargets"
PREDICT = "/milliseek.rpc.v1.LatencyService/PredictModel"
WAIT_S = 30


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield opened
    opened.close()


def scraped(address):
    """Values by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_S) as response:
        families = text_string_to_metric_families(response.read().decode())
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }


def test_calls_by_method_and_code(database, backend):
    metrics = Metrics(database)
    with (
        metrics.served("0") as address,
        InProcessServer(backend, observe=metrics.call_ended) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = latency_pb2_grpc.LatencyServiceStub(channel)
        for _ in range(3):
            stub.ListTargets(latency_pb2.ListTargetsRequest(), timeout=WAIT_S)
        with pytest.raises(grpc.RpcError):
            stub.PredictModel(latency_pb2.PredictModelRequest(sha256="short"), timeout=WAIT_S)
        failed = "milliseek_calls_total", ("code", "INVALID_ARGUMENT"), ("method", PREDICT)
        deadline = time.monotonic() + WAIT_S
        while (found := scraped(address)).get(failed) != 1:  # counted once the answer is on its way
            assert time.monotonic() < deadline
    assert address.startswith("127.0.0.1:")
    assert found["milliseek_calls_total", ("code", "OK"), ("method", LIST)] == 3
    assert found["milliseek_call_seconds_count", ("method", LIST)] == 3
    assert found["milliseek_call_seconds_bucket", ("le", "+Inf"), ("method", LIST)] == 3
    assert found[("process_resident_memory_bytes",)] > 1e6


def test_jobs_agents_and_leases(database):
    metrics = Metrics(database)
    with database.session() as session:
        assert counts.job_counts(session) == {}
        sha256 = save_artefact(session, database.artefacts, b"model", "payload")
        upsert_device(session, "pi", "agent", {})
        upsert_device(session, "old", "agent", {})
        touch_device(session, "pi", 60)
        jobs = [NewJob(str(i), "pi/onnxruntime/int8", "pi", "measure", {}, sha256, 5) for i in range(3)]
        submit_jobs(session, jobs)
        assert len(lease_jobs(session, "pi", 1, 60)) == 1
    metrics.leases_expired(2)
    with metrics.served("127.0.0.1:0") as address:
        found = scraped(address)
    states = {state: found["milliseek_jobs", ("state", state)] for state in ("queued", "leased", "done", "failed")}
    assert states == {"queued": 2, "leased": 1, "done": 0, "failed": 0}
    assert found[("milliseek_connected_agents",)] == 1
    assert found[("milliseek_lease_expiries_total",)] == 2
    assert found[("milliseek_database_up",)] == 1


def test_a_database_that_does_not_answer_is_a_figure_too(database, monkeypatch):
    def broken(_session):
        raise StorageError("The database is locked.", "Wait.")

    metrics = Metrics(database)
    monkeypatch.setattr("milliseek.rpc.metrics.job_counts", broken)
    with metrics.served("0") as address:
        found = scraped(address)
    assert found[("milliseek_database_up",)] == 0
    assert ("milliseek_connected_agents",) not in found


def test_methods_that_there_are_not_make_no_series(database, backend):
    metrics = Metrics(database)
    with (
        metrics.served("0") as address,
        InProcessServer(backend, observe=metrics.call_ended) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for i in range(5):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(f"/milliseek.rpc.v1.LatencyService/Made{i}")(b"", timeout=WAIT_S)
        latency_pb2_grpc.LatencyServiceStub(channel).ListTargets(latency_pb2.ListTargetsRequest(), timeout=WAIT_S)
        assert not [key for key in scraped(address) if "Made" in str(key)]


def test_the_port_is_checked(database):
    metrics = Metrics(database)
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(Busy),
        metrics.served(str(other.getsockname()[1])),
    ):
        pass
    with pytest.raises(InvalidInput, match="is not an address"), metrics.served("here:there"):
        pass


def test_the_port_is_free_again_afterwards(database):
    with Metrics(database).served("0") as address:
        assert scraped(address)
    with Metrics(database).served(address) as again:
        assert again == address


def test_an_address_outside_is_served_with_a_warning(database, caplog):
    with Metrics(database).served("0.0.0.0:0"):
        assert "neither TLS nor tokens" in caplog.text
