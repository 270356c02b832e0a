"""What the runtime executes can be named, and each piece can be rebuilt from its name alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from milliseek.devices.local import LocalDevice
from milliseek.devices.runtimes.onnx_runtime import OnnxRuntime
from milliseek.devices.target import Target
from milliseek.errors import InvalidInput
from milliseek.kernels.kernel import Kernel, KernelUse
from milliseek.kernels.onnx.builder import one_kernel_model
from milliseek.kernels.onnx.reader import instrument, split

UNBUILDABLE = {"SequenceAt"}
"""Kernels that read a sequence: nothing but another node can make one."""


def kernels_of(device: LocalDevice, model: bytes) -> tuple[bytes, list[KernelUse]]:
    optimised = device.optimise(model)
    return optimised, split(optimised, device.tensor_shapes(instrument(optimised)))


def test_every_node_is_accounted_for_in_topological_order(device: LocalDevice, network: bytes) -> None:
    optimised, uses = kernels_of(device, network)
    nodes = [node for node in onnx.ModelProto.FromString(optimised).graph.node if node.op_type != "Constant"]
    assert [(use.kernel.op_type, use.outputs) for use in uses] == [
        (node.op_type, tuple(name for name in node.output if name)) for node in nodes
    ]
    made = {value.name for value in onnx.ModelProto.FromString(optimised).graph.input}
    made |= {tensor.name for tensor in onnx.ModelProto.FromString(optimised).graph.initializer}
    for node, use in zip(nodes, uses, strict=True):
        assert {name for name in node.input if name} <= made
        made.update(use.outputs)


def test_every_kernel_can_be_rebuilt_and_gives_the_recorded_outputs(device: LocalDevice, network: bytes) -> None:
    _, uses = kernels_of(device, network)
    for use in uses:
        kernel = Kernel.from_json(use.kernel.to_json())
        assert kernel == use.kernel
        if kernel.op_type in UNBUILDABLE:
            with pytest.raises(InvalidInput, match="sequence"):
                one_kernel_model(kernel)
            continue
        outputs = device.tensor_shapes(one_kernel_model(kernel))
        for position, spec in enumerate(kernel.outputs):
            if spec is not None:
                found = outputs[f"o{position}"]
                assert (found.shape, found.dtype) == (spec.shape, spec.dtype), kernel.kind


@pytest.mark.parametrize("network", ["mobile_int8"], indirect=True)
def test_rebuilt_int8_outputs_use_their_range(device: LocalDevice, network: bytes) -> None:
    _, uses = kernels_of(device, network)
    for kernel in (use.kernel for use in uses):
        if kernel.op_type != "QLinearConv":
            continue
        session = OnnxRuntime().load(one_kernel_model(kernel), Target("here", "onnxruntime", "int8"), optimise=False)
        output = session.outputs[0].numpy()
        assert np.mean((output > 0) & (output < 255)) > 0.9
        assert output.std() > 10
