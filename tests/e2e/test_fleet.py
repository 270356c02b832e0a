"""A server and an agent as processes of their own: a device elsewhere is profiled, predicted and taken care of."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import Space, extreme_subnet

from .conftest import Milliseek, answer, command, environment

SPACE = "tiny32-0000-0000"
TARGET = "pi4/onnxruntime/int8"


@contextmanager
def running(home: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A command that runs until it is told to end, which it does in order."""
    process = subprocess.Popen(
        command(*arguments),
        env=environment(home),
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.communicate()


@contextmanager
def served(home: Path) -> Iterator[str]:
    """`milliseek serve`; its address."""
    with running(home, "serve", "--address", "127.0.0.1:0") as process:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        yield found[0]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = extreme_subnet(Space.decode(SPACE), largest=False).network(10)
    path = tmp_path / "small.onnx"
    path.write_bytes(network_model(network, random_parameters(network.layers), "int8"))
    return path


def device(milliseek: Milliseek, name: str) -> dict[str, Any]:
    """What `devices list` says of it; empty if it is not there."""
    devices = answer(milliseek("devices", "list", "--json"))["devices"]
    return next((found for found in devices if found["name"] == name), {})


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None


@pytest.mark.slow
def test_a_device_elsewhere_from_first_to_last(milliseek: Milliseek, home: Path, model: Path) -> None:
    named = ("--name", "pi4-kitchen", "--model", "pi4")
    with served(home) as address, running(home, "agent", "--server", address, *named) as agent:
        until(lambda: device(milliseek, "pi4-kitchen").get("connected", False), agent)
        known = device(milliseek, "pi4-kitchen")
        assert (known["kind"], known["model"], known["state"]) == ("agent", "pi4", "active")
        listed = " ".join(milliseek("devices", "list").stdout.split())
        assert "agent, model pi4, active, connected" in listed

        made = answer(milliseek("profile", TARGET, "--space", "tiny32", "--budget", "15s", "--json"))
        assert made["predictor"] == f"{TARGET}@1"
        assert made["kernels"] >= 30
        predicted = answer(milliseek("predict", model, "--target", TARGET, "--json"))
        evaluated = answer(milliseek("evaluate", model, "--target", TARGET, "--json"))
        assert evaluated["models"][0]["predicted_ms"] == pytest.approx(predicted["latency_ms"])
        checked = answer(milliseek("predictors", "check", TARGET, "--json"))
        assert checked["predictor"] == made["predictor"]
        by_server = answer(milliseek("predict", model, "--target", TARGET, "--server", address, "--json"))
        assert by_server["latency_ms"] == pytest.approx(predicted["latency_ms"])

        assert answer(milliseek("devices", "drain", "pi4-kitchen", "--json"))["state"] == "draining"
        assert device(milliseek, "pi4-kitchen")["state"] == "draining"
        assert "is active" in milliseek("devices", "resume", "pi4-kitchen").stdout
        until(lambda: device(milliseek, "pi4-kitchen")["connected"], agent)
        measured = answer(milliseek("measure", model, "--target", TARGET, "--json"))
        assert measured["models"][0]["measured_ms"] > 0
    gone = device(milliseek, "pi4-kitchen")
    assert not gone["connected"]
    assert gone["last_seen_at"] is not None
    again = answer(milliseek("predict", model, "--target", TARGET, "--json"))
    assert again["latency_ms"] == pytest.approx(predicted["latency_ms"]), "the device is not needed for that"


@pytest.mark.slow
def test_jobs_and_devices_are_taken_care_of(milliseek: Milliseek, home: Path, model: Path) -> None:
    """An agent that came once and went; a measurement waits for it, and is cancelled."""
    with served(home) as address, running(home, "agent", "--server", address, "--name", "board") as agent:
        until(lambda: device(milliseek, "board").get("connected", False), agent)
    waiting = subprocess.Popen(
        command("measure", model, "--target", "board/onnxruntime/int8"),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: bool(answer(milliseek("jobs", "list", "--json"))["jobs"]), waiting)
    (job,) = answer(milliseek("jobs", "list", "--state", "queued", "--json"))["jobs"]
    assert (job["target"], job["kind"], job["tries"]) == ("board/onnxruntime/int8", "measure", 0)
    assert "board/onnxruntime/int8" in milliseek("jobs", "list").stdout
    shown = answer(milliseek("jobs", "show", job["id"], "--json"))
    assert shown["options"] == {"optimise": True, "visits": 1}
    assert "queued" in milliseek("jobs", "show", job["id"]).stdout
    (cancelled,) = answer(milliseek("jobs", "cancel", job["id"], "--json"))["jobs"]
    assert cancelled["state"] == "cancelled"
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert f"Job {job['id']} on board/onnxruntime/int8 was cancelled." in " ".join(told.split())

    assert "Removed board." in milliseek("devices", "remove", "board").stdout
    assert device(milliseek, "board") == {}
    for words in (("devices", "drain", "board"), ("devices", "remove", "local"), ("jobs", "show", 7777)):
        result = milliseek(*words)
        assert result.returncode == 1
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr
