"""The contract of a LatencyBackend: the same answers and errors in process and through server and client."""

import dataclasses
import hashlib

import numpy as np
import pytest

from milliseek import errors

TARGET = "local/onnxruntime/int8"
ERROR_CLASSES = [
    errors.MilliseekError,
    errors.InvalidInput,
    errors.NotFound,
    errors.NotReady,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.Busy,
    errors.StorageError,
    errors.MeasurementError,
    errors.ServiceError,
    errors.MissingExtra,
]


class ThroughTheWire:
    """A client seen as a backend."""

    def __init__(self, client):
        self.client = client
        self.predict_subnets = client.predict_subnets
        self.predict_kernels = lambda target, kernels: client.predict_kernels(kernels, target)
        self.latency_table = client.latency_table
        self.targets = client.targets

    def store_model(self, data, name):
        return self.client.upload(data, name=name)

    def predict_model(self, sha256, target):
        return self.client.predict(sha256, target)


class Streaming(ThroughTheWire):
    """A client that predicts models over a stream."""

    def predict_model(self, sha256, target):
        (prediction,) = self.client.predict_many([sha256], target)
        return prediction


@pytest.fixture(params=["direct", "wire", "stream", "asyncio"])
def subject(request, backend, server, client_classes):
    if request.param == "direct":
        yield backend
        return
    client_class = client_classes["asyncio" if request.param == "asyncio" else "sync"]
    with client_class(server.address, timeout_s=30) as client:
        yield Streaming(client) if request.param == "stream" else ThroughTheWire(client)


def fields(result):
    """The fields of a result, its arrays with type and shape, so that they compare."""
    return {
        name: (value.dtype, value.shape, value.tolist()) if isinstance(value, np.ndarray) else value
        for name, value in ((f.name, getattr(result, f.name)) for f in dataclasses.fields(result))
    }


class TestContract:
    def test_a_stored_model_is_named_by_its_sha256_and_predicted(self, subject, backend):
        data = b"model" * 1000
        sha256 = subject.store_model(data, "net.onnx")
        assert sha256 == hashlib.sha256(data).hexdigest() == subject.store_model(data, "net.onnx")
        assert backend.models[sha256] == ("net.onnx", 5000)
        assert subject.predict_model(sha256, TARGET) == backend.predict_model(sha256, TARGET)

    @pytest.mark.parametrize("count", [0, 1, 1000])
    def test_kernels(self, subject, backend, count):
        kernels = [f"kernel {i}" for i in range(count)]
        assert subject.predict_kernels(TARGET, kernels) == backend.predict_kernels(TARGET, kernels)

    def test_a_text_that_is_no_kernel(self, subject):
        with pytest.raises(errors.InvalidInput, match="is none"):
            subject.predict_kernels(TARGET, ["kernel", "broken"])

    @pytest.mark.parametrize("count", [0, 1, 1000])
    def test_subnets(self, subject, backend, count):
        genes = np.random.default_rng(0).integers(0, 9, (count, 12), dtype=np.int32)
        expected = backend.predict_subnets("small32", TARGET, genes)
        assert fields(subject.predict_subnets("small32", TARGET, genes)) == fields(expected)

    @pytest.mark.parametrize("rows", [0, 1, 1000])
    def test_table(self, subject, backend, rows):
        backend.rows = rows
        expected = backend.latency_table("small32", TARGET)
        assert fields(subject.latency_table("small32", TARGET)) == fields(expected)

    def test_targets(self, subject, backend):
        assert subject.targets() == backend.targets()

    def test_a_file_that_is_no_model(self, subject):
        with pytest.raises(errors.InvalidInput, match=r"net\.onnx is not an ONNX model\. Upload an ONNX file\."):
            subject.store_model(b"broken", "net.onnx")

    def test_an_unknown_model(self, subject):
        with pytest.raises(errors.NotFound, match="There is no model 0000"):
            subject.predict_model("0" * 64, TARGET)

    def test_an_unknown_space(self, subject):
        with pytest.raises(errors.NotFound, match="There is no space huge"):
            subject.latency_table("huge", TARGET)

    def test_genes_of_no_subnet(self, subject):
        with pytest.raises(errors.InvalidInput, match="Row 0 encodes no subnet"):
            subject.predict_subnets("small32", TARGET, np.full((2, 3), -1, np.int32))

    @pytest.mark.parametrize("cls", ERROR_CLASSES)
    @pytest.mark.parametrize("method", ["predict_model", "predict_kernels", "predict_subnets", "latency_table"])
    def test_every_error_keeps_its_class_message_and_remedy(self, subject, backend, cls, method):
        arguments = {
            "predict_model": ("0" * 64, cls.__name__),
            "predict_kernels": (cls.__name__, ["kernel"]),
            "predict_subnets": ("small32", cls.__name__, np.zeros((1, 2), np.int32)),
            "latency_table": ("small32", cls.__name__),
        }[method]
        with pytest.raises(errors.MilliseekError) as direct:
            getattr(backend, method)(*arguments)
        with pytest.raises(errors.MilliseekError) as raised:
            getattr(subject, method)(*arguments)
        assert type(raised.value) is type(direct.value) is cls
        assert raised.value.message == direct.value.message
        assert raised.value.remedy == direct.value.remedy
