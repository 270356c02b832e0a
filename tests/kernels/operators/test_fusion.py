"""What runtimes make of a list of operators: fewer kernels, the same work."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.kernels.costs import macs
from milliseek.kernels.kernel import Kernel
from milliseek.kernels.operators.fusion import FUSIONS, Fusion, fused, usual_fusion
from milliseek.kernels.operators.graph_json import read_graph

SHAPE = [1, 8, 8, 4]
PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
WINDOWED: dict[str, Any] = {"ks": 3, "stride": 1}


def kernels(fusion: Fusion, *operators: str | tuple[Any, ...]) -> list[Kernel]:
    """A graph after one input, all tensors alike: an operator reads the one before it, or those it names."""
    entries: list[dict[str, Any]] = [{"op": "input", "inp": [], "out": SHAPE}]
    for operator in operators:
        op, *inputs = (operator, len(entries) - 1) if isinstance(operator, str) else operator
        windowed = WINDOWED if op in ("conv", "dwconv", "maxpool") else {}
        entries.append({"op": op, "inp": inputs, "out": SHAPE, **windowed})
    return fused(read_graph(entries), fusion)


def types(fusion: Fusion, *operators: str | tuple[Any, ...]) -> list[str]:
    return [kernel.op_type for kernel in kernels(fusion, *operators)]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("activation", "name"), [("relu", "Relu"), ("relu6", "Relu6")])
def test_convolution_normalisation_and_activation_are_one_kernel(fusion: Fusion, activation: str, name: str) -> None:
    (kernel,) = kernels(fusion, "conv", "bn", activation)
    assert (kernel.op_type, kernel.attribute("activation")) == ("CONV_2D", name)
    assert kernel.inputs == kernels(fusion, "conv")[0].inputs


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_read_elsewhere_stays(fusion: Fusion) -> None:
    """The sum reads the convolution and its activation: neither can disappear in the other."""
    assert types(fusion, "conv", "relu", "maxpool", ("concat", 1, 3))[:3] == ["CONV_2D", "RELU", "MAX_POOL_2D"]


@pytest.mark.parametrize("sides", [("mul", 1, 3), ("mul", 3, 1)])
def test_a_hard_swish_is_one_kernel(sides: tuple[Any, ...]) -> None:
    written = ("maxpool", "add_const", "relu6", sides, "mul_const")
    assert types("operators", *written) == ["MAX_POOL_2D", "HARD_SWISH"]
    assert types("linked", *written) == ["MAX_POOL_2D"]
    # The shift and its clipping stay apart from what the plug-in knows no single operator for.
    assert types("inplace", *written) == ["MAX_POOL_2D", "ADD", "MUL", "MUL"]


@pytest.mark.parametrize("sides", [("mul", 1, 3), ("mul", 3, 1)])
def test_a_hard_swish_after_a_convolution_does_not_keep_its_normalisation_apart(sides: tuple[Any, ...]) -> None:
    found = types("operators", "conv", "add_const", "relu6", sides, "mul_const", "conv")
    assert found == ["CONV_2D", "HARD_SWISH", "CONV_2D"]


def test_x_times_something_else_is_no_hard_swish() -> None:
    found = types("operators", "maxpool", "maxpool", "add_const", "relu6", ("mul", 1, 4), "mul_const")
    assert "HARD_SWISH" not in found


def test_a_linked_sum_is_part_of_what_makes_its_last_input() -> None:
    operators = ("conv", ("conv", 1), "bn", ("add", 1, 3), "relu", "maxpool")
    assert types("operators", *operators) == ["CONV_2D", "CONV_2D", "ADD", "MAX_POOL_2D"]
    assert types("linked", *operators) == ["CONV_2D", "CONV_2D", "MAX_POOL_2D"]


def test_a_linked_sum_waits_for_both() -> None:
    """Its last input is read by the pooling, too, and has to be written."""
    operators = ("conv", ("conv", 1), ("maxpool", 2), ("add", 1, 2))
    assert types("linked", *operators) == ["CONV_2D", "CONV_2D", "MAX_POOL_2D", "ADD"]


def test_in_place_nothing_is_joined_or_cut() -> None:
    operators = ("maxpool", "conv", ("concat", 1, 2), "conv")
    assert types("operators", *operators) == ["MAX_POOL_2D", "CONV_2D", "CONCATENATION", "CONV_2D"]
    assert types("inplace", *operators) == ["MAX_POOL_2D", "CONV_2D", "CONV_2D"]
    halves = [1, 8, 8, 2]
    split = [
        {"op": "input", "inp": [], "out": SHAPE},
        {"op": "split", "inp": [0], "out": halves},
        {"op": "split", "inp": [0], "out": halves},
        {"op": "maxpool", "inp": [2], "out": halves, **WINDOWED},
    ]
    assert [kernel.op_type for kernel in fused(read_graph(split), "inplace")] == ["MAX_POOL_2D"]
    assert [kernel.op_type for kernel in fused(read_graph(split), "operators")] == ["SPLIT", "MAX_POOL_2D"]


def test_in_place_a_lone_normalisation_is_one_kernel() -> None:
    operators = ("maxpool", "bn", "relu", "conv")
    assert types("operators", *operators) == ["MAX_POOL_2D", "MUL", "ADD", "CONV_2D"]
    (_, normalisation, _) = kernels("inplace", *operators)
    assert (normalisation.op_type, normalisation.attribute("activation")) == ("MUL", "Relu")


@st.composite
def networks(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Graphs of same-sized tensors, every operator reading any that came before."""
    entries: list[dict[str, Any]] = [{"op": "input", "inp": [], "out": SHAPE}]
    for _ in range(draw(st.integers(1, 14))):
        op = draw(st.sampled_from(_ONE + _TWO))
        count, last = 1 + (op in _TWO), len(entries) - 1
        inputs = draw(st.lists(st.integers(max(0, last - 3), last), min_size=count, max_size=count))
        windowed = WINDOWED if op in ("conv", "dwconv", "maxpool") else {}
        entries.append({"op": op, "inp": inputs, "out": SHAPE, **windowed})
    return entries


_ONE = ["conv", "dwconv", "fc", "bn", "relu", "relu6", "hswish", "sigmoid", "add_const", "mul_const", "maxpool"]
_TWO = ["add", "mul", "concat"]


@given(networks())
def test_no_work_is_lost_and_nothing_gets_slower(graph: list[dict[str, Any]]) -> None:
    uses = read_graph(graph)
    plain = [use.kernel for use in uses]

    def products(found: list[Kernel]) -> Counter[str]:
        return Counter(kernel.op_type for kernel in found if kernel.op_type in PRODUCTS)

    for fusion in FUSIONS:
        found = fused(uses, fusion)
        assert products(found) == products(plain)
        assert math.fsum(map(macs, found)) == math.fsum(map(macs, plain))
        assert len(found) <= len(plain)
        assert {kernel.op_type for kernel in found} <= {kernel.op_type for kernel in plain} | {"HARD_SWISH"}
    assert len(fused(uses, "linked")) <= len(fused(uses, "operators"))


@given(networks(), st.sampled_from(FUSIONS))
def test_fusing_leaves_what_it_is_given(graph: list[dict[str, Any]], fusion: Fusion) -> None:
    uses = read_graph(graph)
    before = list(uses)
    assert fused(uses, fusion) == fused(uses, fusion)
    assert uses == before


@pytest.mark.parametrize(
    ("names", "fusion"),
    [
        (("pixel4", "latency_ms.cortexA76cpu_tflite21"), "operators"),
        (("mi9", "latency_ms.adreno640gpu_tflite21"), "linked"),
        (("s10", "s10|gpu|float"), "linked"),
        (("ncs2", "latency_ms.myriadvpu_openvino2019r2"), "inplace"),
        (("Mali-G77", "ms"), "linked"),
        ((), "operators"),
    ],
)
def test_names_of_devices_and_columns_tell_the_runtime(names: tuple[str, ...], fusion: Fusion) -> None:
    assert usual_fusion(*names) == fusion
