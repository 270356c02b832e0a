"""The worker process: it measures, and it dies alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from milliseek.devices.local import LocalDevice
from milliseek.devices.protocol import ProtocolConfig
from milliseek.devices.target import Target
from milliseek.errors import InvalidInput, MeasurementError, MissingExtra, NotFound


def test_optimised_graph_measures_like_the_file_itself(here: Target, model: bytes, quick: ProtocolConfig) -> None:
    with LocalDevice(here, quick) as device:
        optimised = device.optimise(model)
        visits = [*device.measure(model, optimise=True), *device.measure(optimised, optimise=False, visits=2)]
        assert [visit.error for visit in visits] == [None] * 3
        assert all(visit.latency_ms and visit.probe_best_ms and visit.runs for visit in visits)
        assert device.probe_best_ms is not None


def test_a_model_cannot_read_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(bytes(4))
    monkeypatch.chdir(tmp_path)
    constant = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[4])
    constant.data_location = onnx.TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="secret")
    cast = onnx.helper.make_node("Cast", ["w"], ["y"], to=onnx.TensorProto.INT32)
    graph = onnx.helper.make_graph([cast], "g", [], [onnx.ValueInfoProto(name="y")], [constant])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with (
        LocalDevice(Target("here", "onnxruntime", "fp32")) as device,
        pytest.raises(MeasurementError, match="cannot load"),
    ):
        device.tensor_shapes(model.SerializeToString())


@pytest.mark.parametrize("here", ["onnxruntime"], indirect=True)
def test_onnx_runtime_fuses_what_it_executes(here: Target, model: bytes) -> None:
    with LocalDevice(here) as device:
        optimised = device.optimise(model)
    assert len(onnx.ModelProto.FromString(optimised).graph.node) < 5


@pytest.mark.parametrize(("here", "ends"), [("onnxruntime", ("x", "y")), ("litert", ("0", "6"))], indirect=["here"])
def test_tensor_shapes_take_an_open_batch_as_one(here: Target, model: bytes, ends: tuple[str, str]) -> None:
    with LocalDevice(here) as device:
        shapes = device.tensor_shapes(model)
    assert [shapes[end] for end in ends] == [((1, 16, 16, 16), "float32", None)] * 2


def test_measure_many_keeps_keys_and_survives_bad_candidates(here: Target, model: bytes, quick: ProtocolConfig) -> None:
    with LocalDevice(here, quick) as device:
        found = dict(device.measure_many([("good", model), ("junk", b"junk"), ("again", model)]))
    assert found["good"].error is None
    assert found["again"].error is None
    assert "cannot load" in str(found["junk"].error)


@pytest.mark.parametrize("model", ["failing"], indirect=True)
def test_a_model_that_fails_in_its_run_is_data(here: Target, model: bytes) -> None:
    with LocalDevice(here) as device:
        assert "cannot run" in str(device.measure(model, optimise=True)[0].error)
        with pytest.raises(MeasurementError, match="cannot load"):
            device.optimise(b"junk")


@pytest.mark.parametrize("model", ["endless"], indirect=True)
def test_a_model_that_hangs_costs_only_itself(here: Target, model: bytes) -> None:
    config = ProtocolConfig(time_limit_s=1.0, patience_ms=50.0)
    with LocalDevice(here, config) as device:
        first = device.measure(model, optimise=True)[0]
        assert "took longer than" in str(first.error)
        with pytest.raises(MeasurementError, match="took longer"):
            device.tensor_shapes(model)


def test_a_dead_worker_is_replaced(here: Target, model: bytes, quick: ProtocolConfig) -> None:
    with LocalDevice(here, quick) as device:
        device.measure(model, optimise=True)
        best, pid = device.probe_best_ms, device.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGSEGV)
        assert "SIGSEGV" in str(device.measure(model, optimise=True)[0].error)
        again = device.measure(model, optimise=True)[0]
        assert again.error is None
        assert best is not None
        assert again.probe_best_ms <= best


def test_leaving_the_context_ends_the_worker(here: Target, model: bytes) -> None:
    with LocalDevice(here) as device:
        device.optimise(model)
        pid = device.worker_pid
    assert pid is not None
    assert not psutil.pid_exists(pid)


PARENT = """
import sys
from milliseek.devices.local import LocalDevice
from milliseek.devices.target import Target
device = LocalDevice(Target("here", sys.argv[2], "fp32"))
try:
    device.measure(b"junk", optimise=True)
    print(device.worker_pid, flush=True)
    device.measure(open(sys.argv[1], "rb").read(), optimise=False)
finally:
    print("left", flush=True)
"""


@pytest.mark.parametrize("model", ["endless"], indirect=True)
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_no_orphan_when_the_parent_is_stopped_in_a_run(
    here: Target, model: bytes, kind: signal.Signals, tmp_path: Path
) -> None:
    path = tmp_path / "endless"
    path.write_bytes(model)
    command = [sys.executable, "-c", PARENT, str(path), here.runtime]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(kind)
        parent.wait(20)
        psutil.wait_procs([worker], timeout=20)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (Target("here", "onnxruntime", "fp32", cores=(4000,)), InvalidInput),
        (Target("here", "onnxruntime", "fp32", threads=1000), InvalidInput),
        (Target("here", "litert", "fp32", cores=(4000,)), InvalidInput),
        (Target("here", "tensorrt", "fp32"), NotFound),
    ],
)
def test_impossible_targets_are_refused(target: Target, error: type[Exception]) -> None:
    with LocalDevice(target) as device, pytest.raises(error):
        device.optimise(b"")


def test_worker_is_pinned(here: Target, model: bytes) -> None:
    with LocalDevice(here) as device:
        device.optimise(model)
        assert device.worker_pid is not None
        assert psutil.Process(device.worker_pid).cpu_affinity() == [max(os.sched_getaffinity(0))]


def test_devices_need_no_server_packages() -> None:
    code = (
        "import sys, milliseek.devices.local, milliseek.devices.worker, milliseek.devices.facts;"
        "server = {'onnx', 'torch', 'sqlalchemy', 'onnxruntime', 'sklearn', 'ai_edge_litert', 'flatbuffers'};"
        "bad = server & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("here", "extra"), [("onnxruntime", "server"), ("litert", "tflite")], indirect=["here"])
def test_a_missing_runtime_names_the_extra(
    here: Target, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hook = "import importlib.metadata as m\ndef gone(name):\n    raise m.PackageNotFoundError(name)\nm.version = gone\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalDevice(here) as device, pytest.raises(MissingExtra, match=rf"pip install 'milliseek\[{extra}\]'"):
        device.optimise(b"")


def test_a_corrupt_file_costs_at_most_the_worker(here: Target, model: bytes, quick: ProtocolConfig) -> None:
    rng = np.random.default_rng(0)
    with LocalDevice(here, quick) as device:
        for size in (0, 1, 100, len(model) // 2, len(model) - 1):
            with pytest.raises(MeasurementError):
                device.optimise(model[:size])
        for _ in range(20):
            bad = bytearray(model)
            bad[rng.integers(400)] ^= 1 << rng.integers(8)
            with suppress(MeasurementError, InvalidInput):
                device.tensor_shapes(bytes(bad))
        assert device.measure(model, optimise=True)[0].error is None
