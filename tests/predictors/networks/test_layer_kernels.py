"""Groups of layers taken one by one consist of the kernels that whole networks of them are run as."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from milliseek.db.engine import Database
from milliseek.devices.local import LocalDevice
from milliseek.predictors.networks import layer_kernels as module
from milliseek.predictors.networks.layer_kernels import layer_kernels
from milliseek.predictors.networks.splitting import joined_operations, split_groups, split_network
from milliseek.predictors.targets import device_target
from milliseek.spaces.groups import layer_groups
from milliseek.spaces.hyperspace import ONNXW, TINY32
from milliseek.spaces.onnx_network import layers_model, network_model, random_parameters
from milliseek.spaces.space import Space, random_subnet
from milliseek.spaces.tflite_network import tflite_model


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    opened = Database.open(f"sqlite:///{tmp_path_factory.mktemp('layers') / 'milliseek.db'}")
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=["onnxruntime/fp32", "onnxruntime/int8"])
def target(request, database):
    return device_target(database, f"local/{request.param}")


@pytest.fixture(scope="module")
def device(target):
    with LocalDevice(target.target) as local:
        yield local


def network_of(blocks, seed, hyperspace=TINY32):
    windows = tuple((0, 1, 2, 0, 1, 3)[: len(blocks)])
    return random_subnet(Space(hyperspace, blocks, windows), np.random.default_rng(seed)).network(10)


def groups_of(target, network):
    return layer_groups(network.layers, joined_operations(target))


@pytest.fixture(scope="module")
def some_groups(target):
    return list(dict.fromkeys(groups_of(target, network_of((1, 2, 3, 5), 0))))[:12]


@pytest.mark.parametrize("blocks", [(0, 1, 2, 3), (4, 4, 4, 2), (2, 0, 4, 5), (1, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("seed", [7, 11])
def test_the_groups_of_a_network_have_its_kernels(device, target, blocks, seed):
    network = network_of(blocks, seed)
    parameters = random_parameters(network.layers, target.weight_bits)
    whole = split_network(device, network_model(network, parameters, target.precision))
    groups = groups_of(target, network)
    unique = list(dict.fromkeys(groups))
    of_group = dict(zip(unique, split_groups(device, unique, target), strict=True))
    parts = Counter(kernel.hash for group in groups for kernel in of_group[group])
    assert parts == Counter(use.kernel.hash for use in whole)


def test_a_convolution_between_pooling_and_classifier_is_run_in_another_layout(device, target):
    network = network_of((0,) * 6, 1, ONNXW)
    parameters = random_parameters(network.layers, target.weight_bits)
    whole = split_network(device, network_model(network, parameters, target.precision))
    head = groups_of(target, network)[-1]
    assert [layer.op for layer in head] == ["conv", "linear"]
    (kernels,) = split_groups(device, [head], target)
    found = Counter(use.kernel.hash for use in whole)
    assert not Counter(kernel.hash for kernel in kernels) - found


def test_the_layers_of_a_tflite_network_have_its_kernels(database):
    target = device_target(database, "local/onnxruntime/int8")
    target = replace(target, target=replace(target.target, runtime="litert"))
    network = network_of((4, 1, 2, 5), 3)
    groups = groups_of(target, network)
    with LocalDevice(target.target) as device:
        model = tflite_model(network, random_parameters(network.layers, 8), "int8")
        whole = Counter(use.kernel.hash for use in split_network(device, model))
        parts = [kernel.hash for kernels in split_groups(device, groups, target) for kernel in kernels]
        assert device.worker_pid is None, "the file says it all"
    assert Counter(parts) == whole


def test_constants_that_the_runtime_shares_between_groups_join_nothing(database):
    """Equal scales become one, under the name of any of them."""
    target = device_target(database, "local/onnxruntime/int8")
    groups = sorted(groups_of(target, network_of((1, 2, 3, 5), 0)), key=repr)
    with LocalDevice(target.target) as device:
        uses = split_network(device, layers_model(groups, "int8", 7))
        shared = Counter(name for use in uses for name in use.inputs if name.endswith(":scale"))
        assert max(shared.values()) > len(groups)
        assert all(split_groups(device, groups, target))


def test_the_runtime_is_asked_once(database, target, some_groups, monkeypatch):
    told = []
    first = layer_kernels(database, target, some_groups, lambda *progress: told.append(progress))
    assert told == [(len(some_groups), len(some_groups))]
    assert all(first[group] for group in some_groups)

    def nobody(*_):
        raise AssertionError("the runtime was asked again")

    monkeypatch.setattr(module, "split_groups", nobody)
    assert layer_kernels(database, target, some_groups) == first
    assert layer_kernels(database, target, some_groups[:2]).keys() == set(some_groups[:2])


def test_what_is_missing_is_added(tmp_path, some_groups, target, monkeypatch):
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    first = layer_kernels(database, target, some_groups[:3])
    asked = []
    split = module.split_groups

    def watched(device, groups, *rest):
        asked.extend(groups)
        return split(device, groups, *rest)

    monkeypatch.setattr(module, "split_groups", watched)
    both = layer_kernels(database, target, some_groups[:5])
    assert set(asked) == set(some_groups[3:5])
    assert {group: both[group] for group in first} == first
    database.close()
