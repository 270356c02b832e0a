"""The client beyond the contract: big arrays, big tables, and servers that are not there."""

import socket
from concurrent import futures

import grpc
import numpy as np
import pytest

from milliseek.client import Client, predictions, upload
from milliseek.errors import Busy, InvalidInput, ServiceError
from milliseek.results import SubnetLatencies

TARGET = "local/onnxruntime/int8"


@pytest.fixture
def free_address():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_big_arrays_go_as_a_stream_of_batches(client, backend, monkeypatch):
    sizes = []
    predict = backend.predict_subnets
    monkeypatch.setattr(
        backend, "predict_subnets", lambda *args: sizes.append(len(args[2])) or predict(*args), raising=True
    )
    genes = np.random.default_rng(2).integers(0, 9, (30_000, 20), dtype=np.int64)
    answer = client.predict_subnets("small32", TARGET, genes)
    assert sizes == [12_500, 12_500, 5_000]
    assert np.array_equal(answer.latency_ms, predict("small32", TARGET, genes.astype(np.int32)).latency_ms)
    assert (answer.interval, answer.predictor) == ((0.05, 0.1), f"{TARGET}@3")


def test_one_gene_a_subnet(client):
    assert len(client.predict_subnets("small32", TARGET, np.ones((120_000, 1), np.int8)).latency_ms) == 120_000


def test_an_error_in_a_later_batch(client):
    genes = np.zeros((100_000, 10), np.int32)
    genes[-1] = -1
    with pytest.raises(InvalidInput, match="Row 0 encodes no subnet"):
        client.predict_subnets("small32", TARGET, genes)


def test_a_predictor_replaced_between_two_batches(client, backend, monkeypatch):
    versions = iter(range(100))
    monkeypatch.setattr(
        backend,
        "predict_subnets",
        lambda space, target, genes: SubnetLatencies(np.ones(len(genes)), (0.1, 0.1), f"{target}@{next(versions)}"),
    )
    with pytest.raises(Busy, match="was replaced"):
        client.predict_subnets("small32", TARGET, np.zeros((30_000, 20), np.int32))


def test_a_backend_that_loses_a_batch(client, backend, monkeypatch):
    monkeypatch.setattr(
        backend, "predict_subnets", lambda space, target, genes: SubnetLatencies(np.ones(3), (0.1, 0.1), "p@1")
    )
    with pytest.raises(ServiceError, match="9 latencies for 30000 subnets"):
        client.predict_subnets("small32", TARGET, np.zeros((30_000, 20), np.int32))


def test_a_table_of_many_parts(client, backend):
    backend.rows = 120_001
    table = client.latency_table("small32", TARGET)
    expected = backend.latency_table("small32", TARGET)
    assert np.array_equal(table.keys, expected.keys)
    assert np.array_equal(table.latency_ms, expected.latency_ms)


@pytest.mark.parametrize(
    "genes",
    [
        np.zeros(3, np.int32),
        np.zeros((3, 0), np.int32),
        np.zeros((3, 2)),
        np.zeros((3, 2), bool),
        np.full((1, 1), 2**31),
        np.full((1, 1), -(2**31) - 1),
    ],
)
def test_arrays_that_hold_no_subnets(client, genes):
    with pytest.raises(InvalidInput):
        client.predict_subnets("small32", TARGET, genes)


def test_nobody_listens(free_address):
    with Client(free_address, timeout_s=30) as client:
        with pytest.raises(ServiceError, match=f"No latency service answers at {free_address}") as raised:
            client.targets()
        assert "milliseek serve" in raised.value.remedy
        with pytest.raises(ServiceError, match=free_address):
            client.upload(b"network")
        with pytest.raises(ServiceError, match=r"did not answer within 0\.1 s"):
            client.wait_ready(0.1)


def test_wait_ready(client):
    client.wait_ready()
    client.wait_ready(30)


def test_a_deadline(server):
    with Client(server.address, timeout_s=0.2) as client:
        with pytest.raises(ServiceError, match=r"did not answer within 0\.2 s") as raised:
            client.latency_table("small32", "slow")
        assert "milliseek serve" in raised.value.remedy


def test_another_program_that_speaks_grpc():
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with Client(f"127.0.0.1:{port}") as client, pytest.raises(ServiceError, match="no latency service"):
        client.targets()
    other.stop(None).wait()


def test_another_program_that_does_not():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Client(address, timeout_s=0.2) as client, pytest.raises(ServiceError, match=address):
            client.targets()


@pytest.mark.parametrize("address", ["", "localhost", "http://localhost:1", "127.0.0.1:port", ":50051", "a b:1"])
def test_an_address_that_is_none(address):
    with pytest.raises(InvalidInput, match="is not the address of a latency service"):
        Client(address)


def test_a_proxy_in_the_environment_is_not_asked(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with Client(server.address) as client:
        assert client.targets()


def test_closing_twice(server):
    client = Client(server.address)
    client.close()
    client.close()


def test_batches_stay_within_what_the_service_takes():
    from milliseek.rpc.limits import ServiceLimits

    limits = ServiceLimits()
    assert limits.genes >= predictions.GENES_PER_BATCH
    assert limits.subnets >= predictions.SUBNETS_PER_BATCH
    assert limits.kernels >= predictions.KERNELS_PER_BATCH
    assert limits.chunk_bytes >= upload.CHUNK_BYTES
    assert max(limits.genes * 5, predictions.KERNEL_BYTES_PER_BATCH) < 4 * 1024 * 1024
