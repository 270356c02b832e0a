"""Identity, labels and cost of kernels."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.kernels import costs
from milliseek.kernels.kernel import AttributeValue, GraphValue, Kernel, TensorSpec, TensorValue

F32 = "float32"


def kernel(
    op_type: str,
    inputs: list[TensorSpec | None],
    *outputs: TensorSpec,
    domain: str = "",
    **attributes: AttributeValue,
) -> Kernel:
    return Kernel(domain, op_type, tuple(sorted(attributes.items())), tuple(inputs), outputs, 1)


def act(*shape: int, dtype: str = F32) -> TensorSpec:
    return TensorSpec(shape, dtype)


def const(*shape: int, dtype: str = F32) -> TensorSpec:
    return TensorSpec(shape, dtype, constant=True)


SCALE, ZERO = const(), const(dtype="uint8")
CONV = kernel(
    "Conv", [act(1, 16, 32, 32), const(24, 16, 3, 3)], act(1, 24, 16, 16), kernel_shape=(3, 3), strides=(2, 2)
)
DEPTHWISE = kernel(
    "QLinearConv",
    [act(1, 8, 8, 48, dtype="uint8"), SCALE, ZERO, const(48, 1, 3, 3, dtype="int8"), SCALE, ZERO, SCALE, ZERO],
    act(1, 8, 8, 48, dtype="uint8"),
    domain="com.microsoft",
    kernel_shape=(3, 3),
    group=48,
    channels_last=1,
)
BLOCKED = kernel(
    "Conv",
    [act(1, 3, 32, 32), const(24, 3, 3, 3), const(24), act(1, 24, 16, 16)],
    act(1, 24, 16, 16),
    domain="com.microsoft.nchwc",
    kernel_shape=(3, 3),
    activation="Relu",
)

dimensions = st.lists(st.integers(0, 70), max_size=4).map(tuple)
integers = st.integers(-(2**63), 2**63 - 1)
numbers = st.floats(width=32) | st.integers(-(2**63), 2**63 - 1)
tuples = st.one_of(
    st.lists(integers, min_size=1, max_size=3).map(tuple),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=3).map(tuple),
    st.lists(st.text(max_size=4), min_size=1, max_size=3).map(tuple),
)
values = (
    integers
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | tuples
    | st.builds(TensorValue, st.just(F32), dimensions, st.lists(st.floats(allow_nan=False), max_size=3).map(tuple))
    | st.builds(GraphValue, st.text(max_size=4), st.none() | st.text(max_size=4))
)
specs = st.builds(
    TensorSpec,
    dimensions,
    st.sampled_from([F32, "uint8", "int64", "bool"]),
    st.booleans(),
    st.none() | st.lists(integers, max_size=3).map(tuple),
)
kernels = st.builds(
    Kernel,
    st.sampled_from(["", "com.microsoft"]),
    st.text(min_size=1, max_size=8),
    st.dictionaries(st.text("abc", max_size=6), values, max_size=4).map(lambda found: tuple(sorted(found.items()))),
    st.lists(st.none() | specs, max_size=4).map(tuple),
    st.lists(specs, max_size=2).map(tuple),
    st.integers(1, 30),
)


@given(kernels)
def test_json_gives_an_equal_kernel_back(original: Kernel) -> None:
    copy = Kernel.from_json(original.to_json())
    assert copy == original
    assert copy.hash == original.hash
    assert copy.kind == original.kind
    assert copy.config == original.config


def test_hash_is_stable_across_versions() -> None:
    assert CONV.hash == "34c0103a1228f6dd378116a54fef654ab1c3af0e5e9c289675784dfc78564740"


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("dilations", (1, 1), True),
        ("auto_pad", "NOTSET", True),
        ("group", 1, True),
        ("epsilon", 1e-5, True),
        ("dilations", (2, 2), False),
        ("auto_pad", "SAME_UPPER", False),
        ("group", 2, False),
    ],
)
def test_hash_ignores_what_does_not_change_the_work(name: str, value: AttributeValue, same: bool) -> None:
    attributes = tuple(sorted({**dict(CONV.attributes), name: value}.items()))
    assert (dataclasses.replace(CONV, attributes=attributes).hash == CONV.hash) is same


def test_hash_sees_shapes_types_and_shaping_values() -> None:
    shape = TensorSpec((2,), "int64", constant=True, value=(1, 8))
    reshape = kernel("Reshape", [act(2, 4), shape], act(1, 8))
    other = dataclasses.replace(reshape, inputs=(act(2, 4), dataclasses.replace(shape, value=(0, 8))))
    assert len({reshape.hash, other.hash, CONV.hash, DEPTHWISE.hash, BLOCKED.hash}) == 5


def test_labels() -> None:
    assert CONV.kind == "Conv 3x3"
    assert DEPTHWISE.kind == "QLinearConv 3x3 dw"
    assert BLOCKED.kind == "nchwc.Conv 3x3"
    assert CONV.config == "1x16x32x32 -> 1x24x16x16 s2"
    assert BLOCKED.config == "1x3x32x32, 1x24x16x16 -> 1x24x16x16 Relu +residual"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (CONV, 24 * 16 * 16 * 16 * 9),
        (DEPTHWISE, 48 * 8 * 8 * 9),
        (BLOCKED, 24 * 16 * 16 * 3 * 9),
        (kernel("ConvTranspose", [act(1, 12, 5, 5), const(12, 4, 2, 2)], act(1, 4, 10, 10)), 12 * 25 * 4 * 4),
        (kernel("MatMul", [act(2, 3, 5), act(2, 5, 7)], act(2, 3, 7)), 2 * 3 * 5 * 7),
        (kernel("FusedMatMul", [act(5, 3), act(5, 7)], act(3, 7), transA=1), 3 * 5 * 7),
        (kernel("Gemm", [act(1, 64), const(10, 64)], act(1, 10), transB=1), 640),
        (kernel("QGemm", [act(4, 64, dtype="uint8"), SCALE, ZERO, const(10, 64)], act(4, 10)), 4 * 640),
        (kernel("MatMulNBits", [act(1, 6, 64), const(32, 2, 16)], act(1, 6, 32), K=64, N=32), 6 * 64 * 32),
        (kernel("Einsum", [act(2, 3), act(3, 4)], act(2, 4), equation="ij,jk->ik"), 24),
        (kernel("LSTM", [act(3, 1, 6), const(1, 20, 6), const(1, 20, 5)], act(3, 1, 1, 5)), 3 * (120 + 100)),
        (kernel("Relu", [act(1, 64)], act(1, 64)), 0),
    ],
)
def test_macs(item: Kernel, expected: int) -> None:
    assert costs.macs(item) == expected


def test_bytes() -> None:
    assert costs.input_bytes(DEPTHWISE) == math.prod((8, 8, 48))
    assert costs.output_bytes(DEPTHWISE) == math.prod((8, 8, 48))
    assert costs.weight_bytes(DEPTHWISE) == 48 * 9 + 3 * 4 + 3
    assert costs.weight_bytes(CONV) == 4 * 24 * 16 * 9
    assert costs.weight_bytes(kernel("X", [const(5, dtype="int4")], act(1))) == 3
    assert costs.is_view(kernel("Flatten", [act(1, 4, 1, 1)], act(1, 4)))


def test_a_file_that_says_no_groups_means_one():
    add = Kernel("", "Add", (("group", 0),), (TensorSpec((1, 8), "float32"),) * 2, (TensorSpec((1, 8), "float32"),), 14)
    assert add.groups == 1
