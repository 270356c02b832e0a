"""Model files on their way to the backend."""

import errno
import hashlib
import io
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from milliseek import errors
from milliseek.client import Client
from milliseek.client import upload as client_upload
from milliseek.rpc import servicer, spool
from milliseek.rpc.limits import MIB, ServiceLimits
from milliseek.rpc.server import InProcessServer
from milliseek.rpc.v1.latency_pb2 import UploadModelRequest
from milliseek.rpc.v1.latency_pb2_grpc import LatencyServiceStub

HEADER = UploadModelRequest(header={"name": "net.onnx", "size_bytes": 11})


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield LatencyServiceStub(channel)


@pytest.fixture
def small_client(backend):
    """A client of a service that takes 3 MiB."""
    limits = ServiceLimits(upload_bytes=3 * MIB)
    with InProcessServer(backend, limits=limits) as server, Client(server.address) as client:
        yield client


def test_several_mib_from_a_file(client, backend, tmp_path):
    data = bytes(range(256)) * 4 * 1024 * 5 + b"end"
    path = tmp_path / "big net.onnx"
    path.write_bytes(data)
    sha256 = client.upload(path)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert backend.models == {sha256: ("big net.onnx", len(data))}


def test_a_path_bytes_and_a_sha256_are_all_predicted(client, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"network")
    target = "local/onnxruntime/int8"
    sha256 = client.upload(path)
    assert client.predict(path, target) == client.predict(str(path), target) == client.predict(sha256, target)
    assert client.predict(b"network", target) == client.predict(sha256, target)


def test_a_name_that_is_not_unicode(client, backend, tmp_path):
    path = tmp_path / "net\udcff.onnx"
    path.write_bytes(b"network")
    assert backend.models[client.upload(path)] == ("net?.onnx", 7)


def test_exactly_the_limit_is_taken_and_a_byte_more_refused(small_client, backend):
    small_client.upload(bytes(3 * MIB))
    with pytest.raises(errors.InvalidInput, match=r"3145729 bytes, more than the service takes\. .* at most 3 MiB"):
        small_client.upload(bytes(3 * MIB + 1))
    assert len(backend.models) == 1


def test_the_wrong_sha256(client, backend):
    with pytest.raises(errors.InvalidInput, match="not the expected 0000"):
        client.upload(b"network", expected_sha256="0" * 64)
    assert not backend.models
    assert client.upload(b"network", expected_sha256=hashlib.sha256(b"network").hexdigest())


def test_the_file_is_missing_or_cannot_be_read(client, tmp_path):
    with pytest.raises(errors.NotFound, match=r"no file '.*gone\.onnx'"):
        client.upload(tmp_path / "gone.onnx")
    with pytest.raises(errors.InvalidInput, match="cannot be read: Is a directory"):
        client.upload(tmp_path)
    with pytest.raises(errors.InvalidInput, match="cannot be read"):
        client.upload("a\0b")


def test_an_empty_file(client):
    with pytest.raises(errors.InvalidInput, match="is empty"):
        client.upload(b"")


def test_a_file_that_fails_halfway_is_not_taken_for_a_whole_one(client, backend, monkeypatch):
    class FailingFile(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    @contextmanager
    def opened(model):
        yield FailingFile(bytes(3 * MIB)), 3 * MIB

    monkeypatch.setattr(client_upload, "_opened", opened)
    with pytest.raises(errors.InvalidInput, match=r"'net\.onnx' cannot be read: Input/output error"):
        client.upload("net.onnx")
    assert not backend.models


def test_a_file_that_shrinks_on_its_way(client, backend, monkeypatch):
    @contextmanager
    def opened(model):
        yield io.BytesIO(b"half"), 8

    monkeypatch.setattr(client_upload, "_opened", opened)
    with pytest.raises(errors.InvalidInput, match="has 4 bytes, not the 8 that it announced"):
        client.upload("net.onnx")
    assert not backend.models


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "does not begin with a header"),
        ([UploadModelRequest(chunk=b"x")], "does not begin with a header"),
        ([UploadModelRequest()], "does not begin with a header"),
        ([UploadModelRequest(header={})], "is not a file name"),
        ([UploadModelRequest(header={"name": "../net.onnx"})], "is not a file name"),
        ([UploadModelRequest(header={"name": ".."})], "is not a file name"),
        ([UploadModelRequest(header={"name": "x" * 256})], "is not a file name"),
        ([UploadModelRequest(header={"name": "n", "expected_sha256": "AB"})], "64 lower-case hexadecimal digits"),
        ([UploadModelRequest(header={"name": "n"})], "is empty"),
        ([HEADER], "has 0 bytes, not the 11"),
        ([HEADER, UploadModelRequest(chunk=b"1234567890")], "has 10 bytes, not the 11"),
        ([HEADER, *[UploadModelRequest(chunk=b"123456")] * 2], "has more than 11 bytes"),
        ([HEADER, UploadModelRequest(chunk=b"")], "carries no bytes"),
        ([HEADER, HEADER], "carries no bytes"),
    ],
)
def test_messages_that_are_no_upload(stub, backend, messages, reason):
    with pytest.raises(grpc.RpcError, match=reason) as failed:
        stub.UploadModel(iter(messages), timeout=30)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not backend.models


@pytest.mark.parametrize(
    ("backend_limits", "chunks"), [(ServiceLimits(chunk_bytes=5), [6]), (ServiceLimits(upload_bytes=10), [1])]
)
def test_over_a_limit_is_resource_exhausted(backend, backend_limits, chunks):
    with InProcessServer(backend, limits=backend_limits) as server, grpc.insecure_channel(server.address) as channel:
        messages = [HEADER, *(UploadModelRequest(chunk=bytes(size)) for size in chunks)]
        with pytest.raises(grpc.RpcError) as failed:
            LatencyServiceStub(channel).UploadModel(iter(messages), timeout=30)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class TestSpool:
    def test_cancelling_halfway_leaves_nothing(self, stub, backend, tmp_path, monkeypatch):
        begun, closed, send = threading.Event(), threading.Event(), threading.Event()
        spools = []

        class Watched(spool.Spool):
            def write(self, chunk):
                super().write(chunk)
                spools.append(self)
                begun.set()

            def __exit__(self, *error):
                super().__exit__(*error)
                closed.set()

        monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(servicer, "Spool", Watched)

        def messages():
            yield UploadModelRequest(header={"name": "net.onnx", "size_bytes": 2 * MIB})
            yield UploadModelRequest(chunk=bytes(MIB))
            send.wait(60)

        call = stub.UploadModel.future(messages())
        assert begun.wait(30)
        assert not list(tmp_path.iterdir())  # not even while it grows
        call.cancel()
        assert closed.wait(30)
        send.set()
        assert spools[0]._file.closed
        assert not list(tmp_path.iterdir())
        assert not backend.models

    def test_a_full_disk_is_a_storage_error(self, client, backend, monkeypatch):
        full = partial(Path("/dev/full").open, "r+b", buffering=0)
        monkeypatch.setattr(spool.tempfile, "TemporaryFile", full)
        with pytest.raises(errors.StorageError, match="No space left on device"):
            client.upload(bytes(2 * MIB))
        assert not backend.models

    def test_a_missing_temporary_folder_is_a_storage_error(self, client, monkeypatch, tmp_path):
        monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(errors.StorageError, match=r"cannot keep uploads in .*gone: No such file"):
            client.upload(b"network")
