"""Files from others are parsed in a process that they may ruin."""

import os
import signal

import numpy as np
import pytest

from milliseek.devices.processes.child import Child
from milliseek.errors import InvalidInput
from milliseek.predictors.networks import model_reader
from milliseek.predictors.networks.files import ModelForm, outline, sample_networks
from milliseek.predictors.networks.model_reader import ModelReader
from milliseek.spaces.hyperspace import HYPERSPACES

FP32_ONNX = ModelForm("onnx", "fp32", 8)


@pytest.fixture
def reader():
    reader = ModelReader()
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def network():
    ((_, prepared),) = sample_networks([HYPERSPACES["tiny32"]], 1, FP32_ONNX, np.random.default_rng(0))
    return prepared.data


def test_the_child_finds_what_this_process_would_find(reader, network):
    assert reader.outline(network, "net.onnx") == outline(network, "net.onnx")


def test_a_file_is_prepared_for_a_target(reader, network, tmp_path):
    prepared = reader.prepare(tmp_path, network, ModelForm("onnx", "int8", 7), "net.onnx")
    assert reader.outline(prepared.data, "net.onnx").precision == "int8"
    assert prepared.notes


def test_a_refused_file_says_why_and_the_next_one_is_read(reader, network):
    with pytest.raises(InvalidInput, match=r"is not an ONNX file"):
        reader.outline(b"\x08\x08garbage", "bad.onnx")
    assert reader.outline(network, "net.onnx")


def test_a_child_that_dies_is_replaced(reader, network):
    reader.outline(network, "net.onnx")
    os.kill(reader.worker_pid, signal.SIGKILL)
    with pytest.raises(InvalidInput, match="SIGKILL"):
        reader.outline(network, "net.onnx")
    assert reader.outline(network, "net.onnx")


def test_a_file_that_takes_too_much_memory_is_refused(reader, network, monkeypatch):
    monkeypatch.setattr(model_reader, "MEMORY_BYTES", 300 << 20)
    reader.outline(network, "net.onnx")
    with pytest.raises(InvalidInput, match="memory"):
        reader.outline(bytes(400 << 20), "large.onnx")
    assert reader.outline(network, "net.onnx")


def test_a_file_that_takes_too_long_is_given_up(reader, network, monkeypatch):
    reader.outline(network, "net.onnx")
    monkeypatch.setattr(model_reader, "READING_LIMIT_S", 0.0)
    with pytest.raises(InvalidInput, match="took longer"):
        reader.outline(network, "net.onnx")


def test_the_worker_refuses_what_it_does_not_know():
    child = Child("milliseek.predictors.networks.reader_worker")
    try:
        child.ask({"memory_bytes": 1 << 30}, b"", 60)
        with pytest.raises(RuntimeError, match="unknown request"):
            child.ask({"op": "guess", "name": "x"}, b"", 60)
    finally:
        child.close(at_once=True)
