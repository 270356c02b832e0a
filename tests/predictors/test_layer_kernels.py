"""Layers taken one by one consist of the kernels that whole networks of them are run as."""

import gzip
from collections import Counter

import numpy as np
import pytest

from milliseek.devices.local import LocalDevice
from milliseek.errors import StorageError
from milliseek.predictors import layer_kernels as module
from milliseek.predictors.layer_kernels import layer_kernels
from milliseek.predictors.splitting import split_layers, split_network
from milliseek.predictors.targets import local_target
from milliseek.spaces.hyperspace import TINY32
from milliseek.spaces.onnx_network import layers_model, network_model, random_parameters
from milliseek.spaces.space import Space, random_subnet


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    from milliseek.db.engine import Database

    database = Database.open(f"sqlite:///{tmp_path_factory.mktemp('layers') / 'milliseek.db'}")
    yield local_target(database, "local/onnxruntime/int8")
    database.close()


@pytest.fixture(scope="module")
def device(target):
    with LocalDevice(target.target) as local:
        yield local


@pytest.fixture(scope="module")
def some_layers():
    network = random_subnet(Space(TINY32, (1, 2, 3, 5), (0,) * 4), np.random.default_rng(0)).network(10)
    return tuple({layer.workload: None for layer in network.layers})[:12]


@pytest.mark.parametrize("blocks", [(0, 1, 2, 3), (4, 5, 1, 2), (2, 0, 4, 5)], ids=str)
def test_the_layers_of_an_int8_network_have_its_kernels(device, target, blocks):
    subnet = random_subnet(Space(TINY32, blocks, (0, 1, 2, 0)), np.random.default_rng(7))
    network = subnet.network(10)
    parameters = random_parameters(network.layers, target.weight_bits)
    whole = split_network(device, network_model(network, parameters, "int8"))
    unique = list({layer.workload: None for layer in network.layers})
    of_layer = dict(zip(unique, split_layers(device, unique, "int8", target.weight_bits), strict=True))
    parts = Counter(kernel.hash for layer in network.layers for kernel in of_layer[layer.workload])
    assert parts == Counter(use.kernel.hash for use in whole)


def test_constants_that_the_runtime_shares_between_layers_join_nothing(device, some_layers):
    """Equal scales become one, under the name of any layer, also of a graph input."""
    chunk = sorted(some_layers, key=repr)
    uses = split_network(device, layers_model(chunk, "int8", 7))
    assert any(name.startswith("in:") and name.endswith(":scale") for use in uses for name in use.inputs[:2])
    assert all(split_layers(device, chunk, "int8", 7))


def test_the_runtime_is_asked_once(target, tmp_path, some_layers, monkeypatch):
    told = []
    first = layer_kernels(target, some_layers, tmp_path, lambda *progress: told.append(progress))
    assert told == [(len(some_layers), len(some_layers))]
    assert all(first[layer] for layer in some_layers)

    def nobody(*_):
        raise AssertionError("the runtime was asked again")

    monkeypatch.setattr(module, "split_layers", nobody)
    monkeypatch.setattr(module, "LocalDevice", nobody)
    assert layer_kernels(target, some_layers, tmp_path) == first
    assert layer_kernels(target, some_layers[:2], tmp_path).keys() == set(some_layers[:2])


def test_what_is_missing_is_added(target, tmp_path, some_layers, monkeypatch):
    first = layer_kernels(target, some_layers[:3], tmp_path)
    asked = []
    split = module.split_layers

    def watched(device, layers, *rest):
        asked.extend(layers)
        return split(device, layers, *rest)

    monkeypatch.setattr(module, "split_layers", watched)
    both = layer_kernels(target, some_layers[:5], tmp_path)
    assert set(asked) == set(some_layers[3:5])
    assert {layer: both[layer] for layer in first} == first


def damage(data, how):
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    return {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "flipped": bytes(flipped),
        "not compressed": b"{}",
        "other content": gzip.compress(b'{"kernels": [], "layers": [[[1, 2], [0]]]}'),
        "no object": gzip.compress(b"[]"),
        "kernels of nothing": gzip.compress(b'{"kernels": ["[]"], "layers": []}'),
        "no text": gzip.compress(b"\xff\xfe"),
    }[how]


@pytest.fixture(scope="module")
def cached(target, some_layers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    known = layer_kernels(target, some_layers[:2], folder)
    (file,) = folder.iterdir()
    return file.name, file.read_bytes(), known


@pytest.mark.parametrize(
    "how",
    ["empty", "truncated", "flipped", "not compressed", "other content", "no object", "kernels of nothing", "no text"],
)
def test_a_damaged_cache_is_ignored(target, tmp_path, some_layers, cached, how, monkeypatch):
    name, data, known = cached
    (tmp_path / name).write_bytes(damage(data, how))
    monkeypatch.setattr(module, "_devices", lambda target: [LocalDevice(target.target)])
    monkeypatch.setattr(module, "split_layers", lambda _, layers, *__: [known[layer] for layer in layers])
    assert layer_kernels(target, some_layers[:2], tmp_path) == known
    assert module._read(tmp_path / name) == known, "and written anew"


def test_a_cache_that_cannot_be_written_leaves_nothing_behind(target, tmp_path, some_layers, cached, monkeypatch):
    name, _, known = cached
    (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "_devices", lambda target: [LocalDevice(target.target)])
    monkeypatch.setattr(module, "split_layers", lambda _, layers, *__: [known[layer] for layer in layers])
    with pytest.raises(StorageError, match="cannot be written"):
        layer_kernels(target, some_layers[:2], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
