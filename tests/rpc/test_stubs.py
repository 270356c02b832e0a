"""The generated stubs belong to the .proto files, which explain themselves and stay compatible with v1 as it was."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO_FOLDER = "milliseek/rpc/v1"
WITH_SERVICES = [f"{PROTO_FOLDER}/{name}.proto" for name in ("device", "latency", "measure")]
PROTOS = [*WITH_SERVICES, f"{PROTO_FOLDER}/error.proto"]
IMAGE = ROOT / "tests" / "rpc" / "v1.binpb"


def protoc(*arguments):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", ".types", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PYTHONSAFEPATH": "1"},
        check=True,
    )


def buf(*arguments):
    command = [str(Path(sys.executable).parent / "buf"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_stubs_are_what_the_protos_generate(tmp_path):
    assert sorted(PROTOS) == sorted(f"{PROTO_FOLDER}/{path.name}" for path in (ROOT / "rpc" / "v1").glob("*.proto"))
    protoc(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *PROTOS)
    protoc(f"--grpc_python_out={tmp_path}", f"--mypy_grpc_out=quiet:{tmp_path}", *WITH_SERVICES)
    generated = {path.name: path.read_text() for path in (tmp_path / PROTO_FOLDER).iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "rpc" / "v1").glob("*_pb2*.py*")}
    assert sorted(generated) == sorted(committed)
    stale = [name for name in generated if generated[name] != committed[name]]
    assert not stale, f"regenerate as CONTRIBUTING.md says: {stale}"


@pytest.mark.parametrize("module", ["device_pb2_grpc", "error_pb2", "latency_pb2_grpc", "measure_pb2_grpc"])
def test_importing_the_stubs_warns_of_nothing(module):
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", f"import milliseek.rpc.v1.{module}"], check=True)


def test_the_client_imports_nothing_heavy():
    # grpc itself imports the empty packages grpc_health and grpc_reflection.
    heavy = r"(torch|onnx|onnxruntime|sklearn|sqlalchemy|optuna|scipy|google\.rpc)(\.|$)|grpc_(health|reflection)\."
    ours = r"milliseek\.(rpc\.(?!v1|convert|status)|(predictors|kernels|devices|spaces|nas|db|cli)(\.|$))"
    code = "import sys, milliseek.client; print('\\n'.join(sys.modules))"
    listing = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert not [name for name in listing if re.match(f"{heavy}|{ours}", name)]


def test_the_protos_are_in_good_style_and_explain_everything():
    found = buf("lint")
    assert (found.returncode, found.stdout) == (0, "")


def test_v1_stays_compatible():
    found = buf("breaking", "--against", IMAGE)
    assert found.returncode == 0, f"clients of v1 would break:\n{found.stdout}"


@pytest.mark.parametrize(
    ("proto", "before", "after", "complaint"),
    [
        ("latency", "double latency_ms = 3;", "double latency_ms = 30;", "without reserving the number"),
        ("latency", "double latency_ms = 3;", "float latency_ms = 3;", "changed type"),
        ("latency", "double latency_ms = 3;", "double milliseconds = 3;", "changed name"),
        ("latency", "repeated KernelLatency kernels = 7;", "KernelLatency kernels = 7;", "cardinality"),
        ("measure", "JOB_STATE_DONE = 3;", "JOB_STATE_OVER = 3;", "JOB_STATE_DONE"),
        ("device", "  rpc RemoveDevice(RemoveDeviceRequest) returns (RemoveDeviceResponse);", "", "RemoveDevice"),
        ("device", "returns (stream WorkResponse)", "returns (WorkResponse)", "streaming"),
    ],
)
def test_what_would_break_clients_is_noticed(tmp_path, proto, before, after, complaint):
    folder = tmp_path / PROTO_FOLDER
    folder.mkdir(parents=True)
    for path in (ROOT / "rpc" / "v1").glob("*.proto"):
        (folder / path.name).write_text(path.read_text())
    text = (folder / f"{proto}.proto").read_text()
    assert before in text
    (folder / f"{proto}.proto").write_text(text.replace(before, after, 1))
    (tmp_path / "buf.yaml").write_text((ROOT / "buf.yaml").read_text().replace(".types", "."))
    found = buf("breaking", tmp_path, "--against", IMAGE)
    assert found.returncode == 100
    assert complaint in found.stdout
