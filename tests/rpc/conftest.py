"""A deterministic backend, and the service over it on a loopback port."""

import asyncio
import hashlib
import inspect
import subprocess
import threading
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import pytest

from milliseek import errors
from milliseek.client import AsyncClient, Client
from milliseek.results import (
    KernelLatencies,
    KernelLatency,
    LatencyTable,
    Prediction,
    SubnetLatencies,
    TargetInfo,
)
from milliseek.rpc.server import InProcessServer

TARGET = "local/onnxruntime/int8"


class DoubleBackend:
    """Keeps models in memory; fails, waits or breaks where the target says so."""

    def __init__(self, rows=1000):
        self.models = {}
        self.rows = rows
        self.entered = threading.Event()
        self.release = threading.Event()

    def store_model(self, data, name):
        if data.startswith(b"broken"):
            raise errors.InvalidInput(f"{name} is not an ONNX model.", "Upload an ONNX file.")
        sha256 = hashlib.sha256(data).hexdigest()
        self.models[sha256] = (name, len(data))
        return sha256

    def predictor(self, target):
        return f"{target}@3"

    def predict_model(self, sha256, target):
        self._check(target)
        if sha256 not in self.models:
            raise errors.NotFound(f"There is no model {sha256}.", "Upload it first.")
        latency_ms = self.models[sha256][1] / 1000
        return Prediction(
            target=target,
            predictor=f"{target}@3",
            latency_ms=latency_ms,
            interval_ms=(latency_ms * 0.9, latency_ms * 1.1),
            uncovered=0.25,
            kernels=(
                KernelLatency("QLinearConv", "3x3 16->32 s2", latency_ms / 2, 1, spec='{"op_type": "QLinearConv"}'),
                KernelLatency("Mystery", "", latency_ms / 4, 2, covered=False),
            ),
            notes=("An fp32 file was quantised first.",),
        )

    def predict_kernels(self, target, kernels):
        self._check(target)
        if "broken" in kernels:
            raise errors.InvalidInput("A text that should be a kernel is none.", "Use a spec.")
        latencies = tuple(KernelLatency("Conv", "", len(text) / 1000, 1, spec=text) for text in kernels)
        return KernelLatencies(latencies, f"{target}@3")

    def predict_subnets(self, space, target, genes):
        assert genes.dtype == np.int32
        self._check(target, space)
        if genes.size and genes.min() < 0:
            raise errors.InvalidInput("Row 0 encodes no subnet.", "Use the genes of small32.")
        return SubnetLatencies(genes @ np.linspace(0.1, 1, genes.shape[1]), (0.05, 0.1), f"{target}@3")

    def latency_table(self, space, target):
        self._check(target, space)
        keys = np.arange(self.rows * 7, dtype=np.int32).reshape(-1, 7) - 100
        latency_ms = 1 / np.arange(1, self.rows + 1)
        return LatencyTable(space, target, f"{target}@3", keys, latency_ms, 0.125, (0.05, 0.1))

    def targets(self):
        return [TargetInfo(TARGET, f"{TARGET}@3", "1.31.0", {"within_10": 0.97, "weak": ["Conv"], "note": None})]

    def _check(self, target, space="small32"):
        if target == "slow":
            self.entered.set()
            assert self.release.wait(60)
        if target == "bug":
            raise RuntimeError("secret of the server")
        if cls := getattr(errors, target, None):
            raise cls("rich", "server") if cls is errors.MissingExtra else cls(f"Ünlucky {target}.", "Do this.")
        if not target.startswith("local/") and target != "slow":
            raise errors.NotFound(f"There is no target {target}.", "See 'milliseek devices'.")
        if space != "small32":
            raise errors.NotFound(f"There is no space {space}.", "Name small32.")


@pytest.fixture
def new_backend():
    return DoubleBackend


@pytest.fixture
def backend():
    double = DoubleBackend()
    yield double
    double.release.set()


@pytest.fixture
def server(backend):
    with InProcessServer(backend, grace_s=5) as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.address, timeout_s=30) as connected:
        yield connected


class Awaited:
    """An `AsyncClient` on a loop of its own, whose methods are waited for: it looks like a `Client`."""

    def __init__(self, address, **options):
        self._client = AsyncClient(address, **options)
        self._runner = asyncio.Runner()

    def __getattr__(self, name):
        method = getattr(self._client, name)

        async def everything(*args, **kwargs):
            made = method(*args, **kwargs)
            return [item async for item in made] if inspect.isasyncgen(made) else await made

        return lambda *args, **kwargs: self._runner.run(everything(*args, **kwargs))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self._runner.close()


@pytest.fixture(scope="session")
def client_classes():
    return {"sync": Client, "asyncio": Awaited}


@pytest.fixture(params=["sync", "asyncio"])
def new_client(request, client_classes):
    """Makes clients of either kind, closed in the end."""
    with ExitStack() as stack:
        yield lambda address, **options: stack.enter_context(client_classes[request.param](address, **options))


class Certificate(NamedTuple):
    """PEM files of a server that calls itself localhost and 127.0.0.1."""

    cert_file: str
    key_file: str


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    made = Certificate(str(folder / "cert.pem"), str(folder / "key.pem"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", made.key_file, "-out", made.cert_file),
        ],
        check=True,
        capture_output=True,
    )
    return made
