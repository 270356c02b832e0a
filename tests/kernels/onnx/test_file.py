"""Files as users have them: whole, broken, foreign, open-ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milliseek.devices.local import LocalDevice
from milliseek.errors import InvalidInput
from milliseek.kernels.kernel import TensorSpec
from milliseek.kernels.model_file import MAX_FILE_BYTES
from milliseek.kernels.onnx.file import check_model, fix_shapes, precision
from milliseek.kernels.onnx.quantise import quantise_for_timing
from milliseek.kernels.onnx.reader import instrument, split

pytestmark = pytest.mark.filterwarnings("error")


def relu(*shape: int | str | None) -> bytes:
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [source], [target])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def sizes(model: onnx.ModelProto) -> list[int]:
    return [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize("network", ["mobile"], indirect=True)
def test_a_good_file_is_read_from_bytes_and_path(network: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mobile.onnx"
    path.write_bytes(network)
    assert check_model(path) == check_model(network)


@pytest.mark.parametrize("network", ["mobile"], indirect=True)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(network: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(network[: int(len(network) * share)])
    with pytest.raises(InvalidInput, match=r"cut\.onnx") as caught:
        check_model(path)
    assert caught.value.remedy


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(50)])
def test_foreign_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        check_model(data, name="picture.png")


def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        check_model(tmp_path / "none.onnx")
    with pytest.raises(InvalidInput, match="cannot be read"):
        check_model(tmp_path)
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidInput, match="larger than 1024 MiB"):
        check_model(huge)


@pytest.mark.parametrize("network", ["mobile"], indirect=True)
def test_weights_in_other_files_are_refused(network: bytes, tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(
        onnx.ModelProto.FromString(network), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    with pytest.raises(InvalidInput, match="in another file"):
        check_model(path)


def test_invalid_graphs_are_refused() -> None:
    model = onnx.ModelProto.FromString(relu(1, 4))
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(InvalidInput, match="not a valid ONNX model"):
        check_model(model.SerializeToString())


def test_open_batch_is_one_and_given_shapes_win() -> None:
    for name in ("N", "batch", "batch_size", None):
        assert sizes(fix_shapes(check_model(relu(name, 3)))) == [1, 3]
    assert sizes(fix_shapes(check_model(relu("N", 3, "h", "h")), {"x": (2, 3, 8, 8)})) == [2, 3, 8, 8]
    fixed = fix_shapes(check_model(relu("N", 3, "h", 5)), {"x": (2, 3, 8, 5)})
    assert [dim.dim_value for dim in fixed.graph.output[0].type.tensor_type.shape.dim] == [2, 3, 8, 5]


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        (("N", 3, "height", 8), None, r"'x' \(Nx3xheightx8\).* open dimension"),
        (("tokens", 3), None, "'x'"),
        ((1, 3), {"x": (1, 4)}, "does not fit"),
        (("N", 3), {"x": (1,)}, "does not fit"),
        (("N", 3), {"x": (0, 3)}, "does not fit"),
        (("h", "h"), {"x": (3, 4)}, "does not fit"),
        (("N", 3), {"z": (1, 3)}, "no input 'z'.*'x'"),
    ],
)
def test_shapes_that_cannot_be(
    shape: tuple[int | str, ...], given: dict[str, tuple[int, ...]] | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        fix_shapes(check_model(relu(*shape)), given)


@pytest.mark.parametrize("network", ["mobile", "attention"], indirect=True)
@pytest.mark.parametrize("weight_bits", [7, 8])
def test_quantised_for_timing(
    network: bytes, weight_bits: int, device: LocalDevice, capfd: pytest.CaptureFixture[str]
) -> None:
    quantised = quantise_for_timing(network, weight_bits)
    model = check_model(quantised)
    assert (precision(check_model(network)), precision(model)) == ("fp32", "int8")
    weights = [numpy_helper.to_array(item) for item in model.graph.initializer if item.data_type == TensorProto.INT8]
    largest = max(int(np.abs(item.astype(int)).max()) for item in weights)
    assert largest <= 64 if weight_bits == 7 else largest > 64
    optimised = device.optimise(quantised)
    ops = {use.kernel.op_type for use in split(optimised, device.tensor_shapes(instrument(optimised)))}
    assert ops & {"QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    assert capfd.readouterr() == ("", "")
    assert quantise_for_timing(network, weight_bits) == quantised


def test_old_opsets_are_raised_before_quantising() -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), "float32"), "w")
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [source], [target], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    assert precision(check_model(quantise_for_timing(model.SerializeToString()))) == "int8"


def test_constant_nodes_count_as_initialisers() -> None:
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 8]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 4))
    graph = helper.make_graph(nodes, "g", [source], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    shapes = {"x": ((2, 4), "float32"), "y": ((1, 8), "float32")}
    (use,) = split(model, shapes)
    assert use.kernel.inputs[1] == TensorSpec((2,), "int64", constant=True, value=(1, 8))
    with pytest.raises(InvalidInput, match="'y'"):
        split(model, {"x": ((2, 4), "float32")})
