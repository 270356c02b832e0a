"""No node of a network goes unaccounted for: every one is a kernel, and every kernel has its milliseconds."""

import onnx
import pytest

from milliseek.devices.local import LocalDevice
from milliseek.devices.target import parse
from milliseek.kernels.prior import prior_networks
from milliseek.kernels.tflite.file import read_tflite
from milliseek.predictors.networks.splitting import split_network

NETWORKS = 50


@pytest.mark.slow
def test_every_node_of_fifty_onnx_networks_is_a_kernel_with_a_latency(made_up):
    networks = sorted(prior_networks("onnx", "fp32"), key=lambda network: len(network.skeleton))[:NETWORKS]
    assert len({network.family for network in networks}) >= 20
    with LocalDevice(parse("here/onnxruntime/fp32")) as device:
        for network in networks:
            data = network.model()
            uses = split_network(device, data)
            optimised = onnx.ModelProto.FromString(device.optimise(data))
            executed = [node for node in optimised.graph.node if node.op_type != "Constant"]
            assert len(uses) == len(executed), network.name
            check(made_up, [use.kernel for use in uses], network.name)


def test_every_operator_of_the_tflite_networks_is_a_kernel_with_a_latency(made_up):
    networks = prior_networks("tflite", "fp32")
    assert len(networks) >= 20
    with LocalDevice(parse("here/litert/fp32")) as device:
        for network in networks:
            data = network.model()
            uses = split_network(device, data)
            merged = sum(bool(use.kernel.ints("pads")) for use in uses)  # paddings that are part of a convolution
            assert len(uses) + merged == len(read_tflite(data).subgraphs[0].operators), network.name
            check(made_up, [use.kernel for use in uses], network.name)


def check(predictor, kernels, name):
    prediction = predictor.predict(kernels, "p@1")
    assert sum(kernel.count for kernel in prediction.kernels) == len(kernels), name
    assert all(kernel.latency_ms > 0 for kernel in prediction.kernels), name
    assert prediction.latency_ms == pytest.approx(
        sum(kernel.latency_ms * kernel.count for kernel in prediction.kernels)
    )
    unknown_ms = sum(kernel.latency_ms * kernel.count for kernel in prediction.kernels if not kernel.covered)
    assert prediction.uncovered == pytest.approx(unknown_ms / prediction.latency_ms), name
