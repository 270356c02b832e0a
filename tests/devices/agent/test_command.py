"""`milliseek agent` as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from milliseek.devices.agent.connection import Server
from milliseek.errors import NotFound

WAIT_S = 60


def command(service: Any, *options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "milliseek", "agent", "--server", service.address, "--name", "board", *options]


def environment(**more: str) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith("MILLISEEK_")}, **more}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_command_in_order(new_service: Any, job: Any, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "token").write_text("secret\n")
    with (
        new_service("secret") as service,
        subprocess.Popen(
            command(service, "--token-file", str(tmp_path / "token"), "--verbose"),
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        service.wait_for(lambda: service.held() == [])
        service.assign(job("a"))
        service.outcome("a")
        process.send_signal(number)
        _, log = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, log
        assert "connected server=" in log
        assert "done lease=a target=board/onnxruntime/fp32 kind=measure" in log
        assert "stopping device=board" in log
        service.wait_for(lambda: not service.open)


@pytest.mark.parametrize("secret", ["", "wrong"])
def test_a_wrong_token_ends_the_command_with_the_remedy(new_service: Any, secret: str) -> None:
    with new_service("secret") as service:
        result = subprocess.run(
            command(service),
            env=environment(MILLISEEK_TOKEN=secret),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    assert result.returncode == 1
    assert "There is no such token." in result.stderr
    assert "MILLISEEK_TOKEN" in result.stderr
    assert not service.registered


def test_tls_trusts_the_given_certificate(new_service: Any, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=latency", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, *subject, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with (
        new_service("secret", credentials) as service,
        subprocess.Popen(
            command(service, "--ca-file", str(certificate)),
            env=environment(MILLISEEK_TOKEN="secret"),
            stderr=subprocess.PIPE,
        ) as process,
    ):
        service.wait_for(lambda: service.held() == [])
        process.terminate()
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 0


def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    server = Server("localhost:1", token_file=file)
    with pytest.raises(NotFound, match="token file"):
        server.endpoint()
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        assert server.endpoint().metadata == (("authorization", f"Bearer {token}"),)


def test_the_agent_needs_the_base_dependencies_only() -> None:
    code = (
        "import sys, milliseek.cli.app, milliseek.cli.agent, milliseek.devices.agent.agent, milliseek.rpc.log\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(
        subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not loaded & {"sqlalchemy", "alembic", "onnx", "torch", "scipy", "sklearn", "optuna", "flatbuffers"}
    assert not loaded & {"onnxruntime", "ai_edge_litert", "tflite_runtime"}  # the measuring process loads one of them
