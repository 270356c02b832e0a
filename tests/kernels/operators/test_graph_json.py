"""Lists of operators as in published tables: what they stand for, how much work that is, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.kernels.costs import macs
from milliseek.kernels.kernel import TFLITE_DOMAIN, KernelUse
from milliseek.kernels.operators.graph_json import MAX_NODES, MAX_SIZE, read_graph

Graph = list[dict[str, Any]]


def entry(op: str, out: list[int], *inputs: int, **more: Any) -> dict[str, Any]:
    return {"op": op, "inp": list(inputs), "out": out, **more}


def net() -> Graph:
    """A stem, a separable convolution, squeeze-and-excite, a classifier."""
    return [
        entry("input", [1, 32, 32, 3]),
        entry("conv", [1, 16, 16, 8], 0, ks=3, stride=2),
        entry("bn", [1, 16, 16, 8], 1),
        entry("relu6", [1, 16, 16, 8], 2),
        entry("dwconv", [1, 14, 14, 8], 3, ks=3, stride=1, pad="valid"),
        entry("gap", [1, 1, 1, 8], 4),
        entry("sigmoid", [1, 1, 1, 8], 5),
        entry("mul", [1, 14, 14, 8], 4, 6),
        entry("conv", [1, 14, 14, 16], 7, ks=1, stride=1, groups=4),
        entry("avgpool", [1, 1, 1, 16], 8, ks=14, stride=1),
        entry("reshape", [1, 16], 9),
        entry("fc", [1, 10], 10),
    ]


def types(uses: list[KernelUse]) -> list[str]:
    return [use.kernel.op_type for use in uses]


def test_entries_become_operators_of_tflite() -> None:
    uses = read_graph(net())
    assert types(uses) == [
        *("CONV_2D", "MUL", "ADD", "RELU6", "DEPTHWISE_CONV_2D", "MEAN", "LOGISTIC", "MUL"),
        *("CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED"),
    ]
    assert {use.kernel.domain for use in uses} == {TFLITE_DOMAIN}
    stem, depthwise, grouped, linear = (uses[i].kernel for i in (0, 4, 8, 11))
    assert (stem.window, stem.ints("strides"), stem.attribute("padding")) == ((3, 3), (2, 2), "SAME")
    assert (depthwise.is_depthwise, depthwise.groups, depthwise.attribute("padding")) == (True, 8, "VALID")
    assert (grouped.groups, grouped.is_depthwise) == (4, False)
    assert grouped.filter is not None
    assert grouped.filter.shape == (16, 2, 1, 1)
    assert [spec.shape for spec in linear.inputs if spec is not None] == [(1, 16), (10, 16), (10,)]


def test_the_work_is_that_of_the_formula() -> None:
    """Output elements times what each sums over."""
    by_hand = [16 * 16 * 8 * 27, 14 * 14 * 8 * 9, 14 * 14 * 16 * 2, 160]
    assert [work for use in read_graph(net()) if (work := macs(use.kernel))] == by_hand


def test_operators_are_connected_by_names() -> None:
    uses = read_graph(net())
    made: set[str] = {"0"}
    for use in uses:
        assert set(use.inputs) <= made
        made |= set(use.outputs)
    assert uses[7].inputs == (uses[4].outputs[0], uses[6].outputs[0])


def test_a_batch_normalisation_is_a_product_and_a_sum_by_channel() -> None:
    scaled, shifted = (use.kernel for use in read_graph(net())[1:3])
    assert (scaled.op_type, shifted.op_type) == ("MUL", "ADD")
    for kernel in (scaled, shifted):
        assert [(spec.shape, spec.constant) for spec in kernel.inputs if spec is not None] == [
            ((1, 16, 16, 8), False),
            ((8,), True),
        ]


def test_the_outputs_of_a_split_are_entries_of_their_own() -> None:
    uses = read_graph(
        [
            entry("input", [1, 8, 8, 6]),
            entry("split", [1, 8, 8, 3], 0),
            entry("relu", [1, 8, 8, 3], 1),
            entry("split", [1, 8, 8, 3], 0),
            entry("concat", [1, 8, 8, 6], 2, 3),
        ]
    )
    assert types(uses) == ["SPLIT", "RELU", "CONCATENATION"]
    assert uses[0].outputs == ("1", "3")
    assert [spec.shape for spec in uses[0].kernel.outputs if spec is not None] == [(1, 8, 8, 3)] * 2
    assert uses[2].inputs == ("2", "3")


@pytest.mark.parametrize(("window", "op_type"), [(7, "MEAN"), (9, "MEAN"), (3, "AVERAGE_POOL_2D")])
def test_pooling_the_whole_picture_is_a_mean(window: int, op_type: str) -> None:
    out = [1, 1, 1, 4] if op_type == "MEAN" else [1, 7, 7, 4]
    graph = [entry("input", [1, 7, 7, 4]), entry("avgpool", out, 0, ks=window, stride=1)]
    assert types(read_graph(graph)) == [op_type]


def test_a_channel_shuffle() -> None:
    uses = read_graph(
        [
            entry("input", [1, 7, 7, 8]),
            entry("reshape", [1, 7, 7, 2, 4], 0),
            entry("transpose", [1, 7, 7, 4, 2], 1),
            entry("reshape", [1, 7, 7, 8], 2),
        ]
    )
    assert uses[1].kernel.ints("perm") == (0, 1, 2, 4, 3)


def test_all_unknown_operators_are_listed() -> None:
    graph = [*net(), entry("lstm", [1, 10], 11), entry("attention", [1, 10], 12), entry("lstm", [1, 10], 13)]
    with pytest.raises(InvalidInput, match="unknown operators: attention, lstm") as caught:
        read_graph(graph)
    assert "dwconv" in caught.value.remedy


CHANGES: dict[str, tuple[int, dict[str, Any]]] = {
    "later": (3, {"inp": [7]}),
    "itself": (3, {"inp": [3]}),
    "never": (3, {"inp": [99]}),
    "negative": (3, {"inp": [-1]}),
    "endless": (3, {"inp": [float("inf")]}),
    "words": (3, {"inp": ["x"]}),
    "no list": (3, {"inp": None}),
    "too many inputs": (1, {"inp": [0, 0]}),
    "groups": (8, {"groups": 3}),
    "no window": (1, {"ks": None}),
    "half a window": (1, {"ks": 1.5}),
    "negative size": (4, {"out": [1, -14, 14, 8]}),
    "zero": (4, {"out": [1, 0, 14, 8]}),
    "a truth": (4, {"out": [True, 14, 14, 8]}),
    "huge size": (4, {"out": [1, 14, 14, MAX_SIZE + 1]}),
    "huge tensor": (4, {"out": [1, 100_000, 100_000, 8]}),
    "no shape": (4, {"out": 8}),
    "empty shape": (2, {"out": []}),
    "flat picture": (4, {"out": [1, 8]}),
    "padding": (4, {"pad": "mirror"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_entry_that_does_not_fit_is_named(change: str) -> None:
    number, changed = CHANGES[change]
    graph = net()
    graph[number] |= changed
    with pytest.raises(InvalidInput, match=rf"Entry {number} of the graph \({graph[number]['op']}\)"):
        read_graph(graph)


def test_an_entry_without_its_parts_is_named() -> None:
    for missing in ("inp", "out", "ks"):
        graph = net()
        del graph[1][missing]
        with pytest.raises(InvalidInput, match=f"Entry 1 of the graph .*{missing}"):
            read_graph(graph)


@pytest.mark.parametrize("graph", [[], {}, None, "conv", [entry("input", [1])] * (MAX_NODES + 1)])
def test_no_list_of_a_sensible_length(graph: Any) -> None:
    with pytest.raises(InvalidInput, match="not a list of operators"):
        read_graph(graph)


def test_inputs_alone_are_no_network() -> None:
    with pytest.raises(InvalidInput, match="inputs only"):
        read_graph([entry("input", [1, 8, 8, 3])])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    number=st.integers(0, 11), key=st.sampled_from(["op", "inp", "out", "ks", "stride", "groups", "pad"]), value=JSON
)
def test_any_json_is_read_or_refused(number: int, key: str, value: Any) -> None:
    graph = net()
    graph[number][key] = value
    try:
        uses = read_graph(graph)
    except InvalidInput:
        return
    assert all(math.prod(spec.shape) <= MAX_SIZE for use in uses for spec in use.kernel.outputs if spec is not None)
