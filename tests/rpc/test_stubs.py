"""The generated stubs belong to the .proto files, and the .proto files explain themselves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
PROTO_FOLDER = "milliseek/rpc/v1"


def protoc(*arguments):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", ".types", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PYTHONSAFEPATH": "1"},
        check=True,
    )


def test_the_stubs_are_what_the_protos_generate(tmp_path):
    latency, error = f"{PROTO_FOLDER}/latency.proto", f"{PROTO_FOLDER}/error.proto"
    protoc(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", error, latency)
    protoc(f"--grpc_python_out={tmp_path}", f"--mypy_grpc_out=quiet:{tmp_path}", latency)
    generated = {path.name: path.read_text() for path in (tmp_path / PROTO_FOLDER).iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "rpc" / "v1").glob("*_pb2*.py*")}
    assert sorted(generated) == sorted(committed)
    stale = [name for name in generated if generated[name] != committed[name]]
    assert not stale, f"regenerate with the command in rpc/v1/__init__.py: {stale}"


@pytest.mark.parametrize("module", ["milliseek.rpc.v1.latency_pb2_grpc", "milliseek.rpc.v1.error_pb2"])
def test_importing_the_stubs_warns_of_nothing(module):
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", f"import {module}"], check=True)


def test_the_client_imports_nothing_heavy():
    # grpc itself imports the empty packages grpc_health and grpc_reflection.
    heavy = r"(torch|onnx|onnxruntime|sklearn|sqlalchemy|optuna|scipy|google\.rpc)(\.|$)|grpc_(health|reflection)\."
    ours = r"milliseek\.(rpc\.(?!v1|convert|status)|(predictors|kernels|devices|spaces|nas|db|cli)(\.|$))"
    code = "import sys, milliseek.client; print('\\n'.join(sys.modules))"
    listing = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert not [name for name in listing if re.match(f"{heavy}|{ours}", name)]


def test_every_message_field_and_method_is_explained(tmp_path):
    for name in ("latency", "error"):
        protoc("--include_source_info", f"-o{tmp_path / name}", f"{PROTO_FOLDER}/{name}.proto")
        file = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / name).read_bytes()).file[0]
        explained = {tuple(loc.path) for loc in file.source_code_info.location if loc.leading_comments.strip()}
        missing = []
        for m, message in enumerate(file.message_type):
            paths = {(4, m): message.name}
            paths |= {(4, m, 2, f): f"{message.name}.{field.name}" for f, field in enumerate(message.field)}
            missing += [label for path, label in paths.items() if path not in explained]
        for s, service in enumerate(file.service):
            paths = {(6, s): service.name}
            paths |= {(6, s, 2, m): f"{service.name}.{method.name}" for m, method in enumerate(service.method)}
            missing += [label for path, label in paths.items() if path not in explained]
            for method in service.method:
                assert method.input_type == f".{file.package}.{method.name}Request"
                assert method.output_type == f".{file.package}.{method.name}Response"
        assert not missing
