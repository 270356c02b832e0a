"""A file without its weights has the same kernels."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest

from milliseek.devices.local import LocalDevice
from milliseek.devices.runtimes.runtime import ZEROS
from milliseek.kernels.onnx.hollow import LARGE_BYTES, hollow, hollow_model, with_weights_as_inputs
from milliseek.kernels.onnx.reader import instrument, split
from milliseek.predictors.networks.splitting import split_hollow, split_network

from ..conftest import NETWORKS


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_hollow_model_has_the_kernels_of_the_whole_one(name: str, device: LocalDevice) -> None:
    model = NETWORKS[name]()
    optimised = device.optimise(model)
    whole = Counter(use.kernel.hash for use in split(optimised, device.tensor_shapes(instrument(optimised))))
    uses = split_hollow(device, hollow(model, ZEROS))
    if name in ("dynamic", "branching"):
        assert uses is None, "only a run tells the shapes"
    else:
        assert uses is not None
        assert Counter(use.kernel.hash for use in uses) == whole
    assert Counter(use.kernel.hash for use in split_network(device, model)) == whole


def test_large_constants_leave_and_small_ones_stay() -> None:
    model = onnx.ModelProto.FromString(NETWORKS["mobile"]())
    bare = hollow_model(model, "elsewhere")
    assert bare.ByteSize() < model.ByteSize() / 4
    for before, after in zip(model.graph.initializer, bare.graph.initializer, strict=True):
        assert (before.name, before.dims, before.data_type) == (after.name, after.dims, after.data_type)
        if len(before.raw_data) < LARGE_BYTES:
            assert after == before
        else:
            entries = {entry.key: entry.value for entry in after.external_data}
            assert entries == {"location": "elsewhere", "length": str(len(before.raw_data))}
    assert hollow_model(bare, "elsewhere") == bare
    del bare.graph.initializer[:]
    del model.graph.initializer[:]
    assert bare == model


def test_weights_as_inputs_make_a_valid_model() -> None:
    model = onnx.ModelProto.FromString(NETWORKS["mobile"]())
    bare = with_weights_as_inputs(model)
    onnx.checker.check_model(bare, full_check=True)
    names = [tensor.name for tensor in bare.graph.initializer] + [value.name for value in bare.graph.input]
    assert set(names) == {tensor.name for tensor in model.graph.initializer} | {"input"}
    assert len(names) == len(set(names))
