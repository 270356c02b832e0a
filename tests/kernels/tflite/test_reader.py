"""What a TFLite file executes can be named, and each operator can be rebuilt alone on the runtime's same path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert.interpreter import Interpreter

from milliseek.errors import InvalidInput
from milliseek.kernels import costs
from milliseek.kernels.kernel import TensorSpec
from milliseek.kernels.tflite.builder import one_kernel_tflite
from milliseek.kernels.tflite.file import read_tflite
from milliseek.kernels.tflite.reader import split_tflite
from milliseek.kernels.tflite.schema import members
from milliseek.kernels.tflite.writer import Quantisation, TFLiteWriter

F32, I32 = "float32", "int32"
VALID, SAME = members("Padding")["VALID"], members("Padding")["SAME"]
RELU6 = members("ActivationFunctionType")["RELU6"]


class Net:
    """A network under construction, fp32 or int8; every method takes and returns numbers of tensors."""

    def __init__(self, *shape: int, dtype: str = F32) -> None:
        self.writer, self.dtype, self.rng = TFLiteWriter(), dtype, np.random.default_rng(0)
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.input = self.tensor(shape)

    def tensor(self, shape: Sequence[int], scale: float = 0.05, zero_point: int = -3, dtype: str = "") -> int:
        quantisation = Quantisation((scale,), zero_point) if self.dtype == "int8" and not dtype else None
        number = self.writer.tensor(shape, dtype or self.dtype, None, quantisation)
        self.shapes[number] = tuple(shape)
        return number

    def ints(self, *values: Any) -> int:
        return self.writer.tensor(np.shape(values), I32, np.array(values, I32))

    def weights(self, *shape: int, axis: int = 0) -> tuple[int, int]:
        """Filters and bias."""
        count = shape[axis]
        if self.dtype == F32:
            values = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape) / count)
            return self.writer.tensor(shape, F32, values), self.writer.tensor((count,), F32, np.zeros(count))
        filters, bias = Quantisation((0.01,) * count, 0, axis), Quantisation((0.0002,) * count)
        values = self.rng.integers(-127, 128, shape)
        return (
            self.writer.tensor(shape, "int8", values, filters),
            self.writer.tensor((count,), I32, np.zeros(count), bias),
        )

    def op(
        self, op_type: str, inputs: Sequence[int], shape: Sequence[int], *, scale: float = 0.05, **options: Any
    ) -> int:
        output = self.tensor(shape, scale, options.pop("zero_point", -3))
        version = options.pop("version", 2 if self.dtype == "int8" else 1)
        self.writer.operator(op_type, inputs, [output], options, version)
        return output

    def conv(self, x: int, out: int, window: int, stride: int = 1, *, padding: int = SAME, **options: Any) -> int:
        _, height, width, channels = self.shapes[x]
        edge = 0 if padding == SAME else window - 1
        shape = (1, -(-(height - edge) // stride), -(-(width - edge) // stride), out)
        strides = {"strideH": stride, "strideW": stride, "padding": padding}
        inputs = [x, *self.weights(out, window, window, channels)]
        return self.op("CONV_2D", inputs, shape, version=3, **strides, **options)

    def depthwise(self, x: int, window: int) -> int:
        channels = self.shapes[x][3]
        inputs = [x, *self.weights(1, window, window, channels, axis=3)]
        strides = {"strideH": 1, "strideW": 1, "padding": SAME, "depthMultiplier": 1}
        return self.op("DEPTHWISE_CONV_2D", inputs, self.shapes[x], version=3, **strides)

    def pad(self, x: int, amount: int) -> int:
        batch, height, width, channels = self.shapes[x]
        pads = self.ints([0, 0], [amount, amount], [amount, amount], [0, 0])
        return self.op("PAD", [x, pads], (batch, height + 2 * amount, width + 2 * amount, channels))

    def finish(self, *outputs: int) -> bytes:
        return self.writer.finish([self.input], outputs)


def mobile(dtype: str) -> bytes:
    """Padded, depthwise, grouped, pointwise and transposed convolutions, a gate, a residual, two heads."""
    net = Net(1, 32, 32, 3, dtype=dtype)
    x = net.conv(net.pad(net.input, 1), 16, 3, 2, padding=VALID, fusedActivationFunction=RELU6)
    y = net.depthwise(x, 5)
    gate = net.op("MEAN", [y, net.ints(1, 2)], (1, 1, 1, 16), keepDims=True)
    gate = net.op("LOGISTIC", [net.conv(gate, 16, 1)], (1, 1, 1, 16), scale=1 / 256, zero_point=-128)
    y = net.op("MUL", [y, gate], (1, 16, 16, 16))
    x = net.op("ADD", [x, net.conv(y, 16, 1)], (1, 16, 16, 16))
    tiny = net.writer.tensor((), dtype, np.ones(1), Quantisation((1e-6,)) if dtype == "int8" else None)
    far = net.op("ADD", [x, tiny], (1, 16, 16, 16))
    grouped = [x, *net.weights(8, 3, 3, 4)]
    y = net.op(
        "CONV_2D", grouped, (1, 16, 16, 8), strideH=1, strideW=1, padding=SAME, version=3 if dtype == "int8" else 6
    )
    parts = [net.op("HARD_SWISH", [far], (1, 16, 16, 16), version=1), y, x]
    joined = net.op("CONCATENATION", parts, (1, 16, 16, 40), axis=3)
    many = net.op("CONCATENATION", [y] * 6, (1, 16, 16, 48), axis=3)
    pool = {"strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    down = net.op("MAX_POOL_2D", [joined], (1, 8, 8, 40), **pool)
    down = net.op("AVERAGE_POOL_2D", [down], (1, 4, 4, 40), **pool)
    up = net.op("RESIZE_BILINEAR", [down, net.ints(8, 8)], (1, 8, 8, 40), halfPixelCenters=True, version=3)
    filters, _ = net.weights(8, 2, 2, 40)
    up = net.op(
        "TRANSPOSE_CONV", [net.ints(1, 16, 16, 8), filters, up], (1, 16, 16, 8), strideH=2, strideW=2, padding=VALID
    )
    padded = net.pad(many, 1)  # used twice: not part of a convolution
    flat = net.op("RESHAPE", [up, net.ints(1, 256, 8)], (1, 256, 8), version=1)
    turned = net.op("TRANSPOSE", [flat, net.ints(0, 2, 1)], (1, 8, 256))
    scores = net.op("BATCH_MATMUL", [flat, turned], (1, 256, 256))
    scores = net.op("SOFTMAX", [scores], (1, 256, 256), beta=1.0, scale=1 / 256, zero_point=-128)
    pooled = net.op("MEAN", [scores, net.ints(1)], (1, 256))
    classes = net.op("FULLY_CONNECTED", [pooled, *net.weights(10, 256)], (1, 10), version=4)
    return net.finish(classes, net.conv(padded, 8, 3, padding=VALID), net.conv(padded, 8, 1))


def loaded(model: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        interpreter.set_tensor(entry["index"], np.ones(entry["shape"], entry["dtype"]))
    interpreter.invoke()
    return interpreter


def delegated(model: bytes) -> list[bool]:
    """For each operator of the main subgraph whether XNNPACK runs it: only its results have no memory of TFLite's."""
    interpreter = loaded(model)
    operators = interpreter._get_ops_details()
    results = {int(index) for item in operators if item["op_name"] == "DELEGATE" for index in item["outputs"]}
    found = []
    for operator in read_tflite(model).subgraphs[0].operators:
        (index,) = (int(number) for number in operator.outputs)
        try:
            interpreter.get_tensor(index)
            found.append(index in results)
        except ValueError:
            found.append(True)
    return found


@pytest.mark.parametrize("dtype", [F32, "int8"])
def test_every_operator_is_rebuilt_on_the_path_it_has_in_the_network(dtype: str) -> None:
    model = mobile(dtype)
    paths = dict(zip((names[0] for names in _made(model)), delegated(model), strict=True))
    assert len(set(paths.values())) == 2, "the network must hold both paths"
    for use in split_tflite(model):
        alone = one_kernel_tflite(use.kernel)
        expected = [paths[use.outputs[0]]] * (2 if use.kernel.ints("pads") else 1)
        assert delegated(alone) == expected, (use.kernel.kind, use.kernel.config)
        (again,) = split_tflite(alone)
        assert again.kernel == use.kernel


def _made(model: bytes) -> list[list[str]]:
    graph = read_tflite(model).subgraphs[0]
    return [[graph.tensors[index].name.decode() for index in operator.outputs] for operator in graph.operators]


@pytest.mark.parametrize("dtype", [F32, "int8"])
def test_no_operator_is_lost(dtype: str) -> None:
    model = mobile(dtype)
    made, uses = _made(model), split_tflite(model)
    merged = [use for use in uses if use.kernel.ints("pads")]
    assert len(merged) == 1
    (first,) = merged
    assert first.kernel.ints("pads") == (1, 1, 1, 1)
    assert first.kernel.inputs[0] == TensorSpec((1, 32, 32, 3), dtype)
    assert [list(use.outputs) for use in uses] == made[1:], "all but the PAD that became part of its convolution"
    known = {"t0"}
    for use in uses:
        fed = {name for name, spec in zip(use.inputs, use.kernel.inputs, strict=True) if spec and not spec.constant}
        assert fed <= known
        known.update(use.outputs)


def test_float16_weights_count_as_constants_and_are_unpacked_once() -> None:
    writer = TFLiteWriter()
    x, y = writer.tensor((1, 8)), writer.tensor((1, 4))
    half = writer.tensor((4, 8), "float16", np.ones((4, 8)))
    whole = writer.tensor((4, 8))
    writer.operator("DEQUANTIZE", [half], [whole])
    writer.operator("FULLY_CONNECTED", [x, whole], [y])
    model = writer.finish([x], [y])
    unpack, dense = (use.kernel for use in split_tflite(model))
    assert costs.is_view(unpack)
    assert dense.inputs[1] == TensorSpec((4, 8), F32, constant=True)
    assert delegated(one_kernel_tflite(dense)) == delegated(model)[1:]
    with pytest.raises(InvalidInput, match="runs once"):
        one_kernel_tflite(unpack)


def test_only_a_pad_of_zeros_around_the_picture_that_feeds_one_convolution_is_part_of_it() -> None:
    def padded(*amounts: list[int], users: int = 1, op_type: str = "PAD") -> list[str]:
        net = Net(1, 8, 8, 4)
        shape = [size + sum(pair) for size, pair in zip((1, 8, 8, 4), amounts, strict=True)]
        value = [net.writer.tensor((), F32, np.zeros(()))] if op_type == "PADV2" else []
        x = net.op(op_type, [net.input, net.ints(*amounts), *value], shape)
        return [
            use.kernel.op_type
            for use in split_tflite(net.finish(*(net.conv(x, 8, 3, padding=VALID) for _ in range(users))))
        ]

    assert padded([0, 0], [1, 1], [0, 2], [0, 0]) == ["CONV_2D"]
    assert padded([0, 0], [1, 1], [0, 2], [0, 1]) == ["PAD", "CONV_2D"]
    assert padded([0, 0], [0, 0], [0, 0], [0, 0]) == ["PAD", "CONV_2D"]
    assert padded([0, 0], [1, 1], [1, 1], [0, 0], users=2) == ["PAD", "CONV_2D", "CONV_2D"]
    assert padded([0, 0], [1, 1], [1, 1], [0, 0], op_type="PADV2") == ["PADV2", "CONV_2D"]


def test_subgraphs_are_told_apart_by_what_they_run() -> None:
    from milliseek.kernels.tflite.schema import schema
    from milliseek.kernels.tflite.writer import pack

    def branch(op_type: str) -> str:
        writer = TFLiteWriter()
        x, y = writer.tensor((1, 8)), writer.tensor((1, 8))
        writer.operator(op_type, [x], [y])
        model = schema().ModelT.InitFromPackedBuf(writer.finish([x], [y]))
        main = TFLiteWriter()
        flag, x, y = main.tensor((), "bool"), main.tensor((1, 8)), main.tensor((1, 8))
        main.operator("IF", [flag, x], [y], {"thenSubgraphIndex": 1, "elseSubgraphIndex": 1})
        whole = schema().ModelT.InitFromPackedBuf(main.finish([flag, x], [y]))
        for operator in model.subgraphs[0].operators:
            operator.opcodeIndex = 1
        whole.subgraphs += model.subgraphs
        whole.operatorCodes += model.operatorCodes
        (use,) = split_tflite(pack(whole))
        with pytest.raises(InvalidInput, match="runs other graphs"):
            one_kernel_tflite(use.kernel)
        return use.kernel.hash

    assert branch("RELU") == branch("RELU") != branch("TANH")
