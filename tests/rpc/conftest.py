"""A deterministic backend, and the service over it on a loopback port."""

import hashlib
import threading

import numpy as np
import pytest

from milliseek import errors
from milliseek.client import LatencyClient
from milliseek.results import KernelLatency, LatencyTable, Prediction, SubnetLatencies, TargetInfo
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
                KernelLatency("QLinearConv", "3x3 16->32 s2", latency_ms / 2, 1),
                KernelLatency("Mystery", "", latency_ms / 4, 2, covered=False),
            ),
            notes=("An fp32 file was quantised first.",),
        )

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
    with LatencyClient(server.address, timeout_s=30) as connected:
        yield connected
