"""Cells of NAS-Bench-201 as whole networks, against what was published about them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.kernels.costs import macs
from milliseek.kernels.operators.nasbench201 import CELLS, CHANNELS, OPERATIONS, cell_kernels, is_cell

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
"""The best of all on CIFAR-10: 94.37 %."""
NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def cell(operations: tuple[str, ...]) -> str:
    a, b, c, d, e, f = operations
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def millions(text: str) -> float:
    return sum(macs(use.kernel) for use in cell_kernels(text)) / 1e6


def test_the_best_cell_has_its_published_work() -> None:
    """The benchmark says 184.735 M, with the operations of the last normalisation."""
    assert millions(BEST) == pytest.approx(184.735, rel=1e-3)


def test_what_a_cell_adds_is_what_it_has() -> None:
    """A convolution from input to output, at each of the three sizes."""
    once = sum((32 >> stage) ** 2 * channels**2 * 9 * CELLS for stage, channels in enumerate(CHANNELS)) / 1e6
    one = cell(("none", "none", "none", "nor_conv_3x3", "none", "none"))
    skip = cell(("none", "none", "none", "skip_connect", "none", "none"))
    assert millions(one) - millions(skip) == pytest.approx(once)


def test_a_cell_of_nothing_is_a_network_all_the_same() -> None:
    kinds = [use.kernel.op_type for use in cell_kernels(NOTHING)]
    assert kinds[-1] == "FULLY_CONNECTED"
    assert millions(NOTHING) < millions(BEST) / 10


def test_operations_on_nothing_do_not_count() -> None:
    """Node 1 gets nothing, so that its convolution to node 2, and that of node 2 to the output, have nothing to do."""
    dead = cell(("none", "none", "nor_conv_3x3", "skip_connect", "none", "nor_conv_1x1"))
    assert millions(dead) == millions(cell(("none", "none", "none", "skip_connect", "none", "none")))


@given(st.tuples(*[st.sampled_from(OPERATIONS)] * 6))
def test_every_cell_is_a_network(operations: tuple[str, ...]) -> None:
    text = cell(operations)
    assert is_cell(text)
    uses = cell_kernels(text)
    assert uses[-1].kernel.outputs[0] is not None
    assert uses[-1].kernel.outputs[0].shape == (1, 10)
    assert len({use.name for use in uses}) == len(uses)


MALFORMED = {
    "an edge too few": "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|",
    "an edge too many": NOTHING + "+|none~0|",
    "other source": NOTHING.replace("none~2", "none~1"),
    "no bars": NOTHING.replace("|", ""),
    "more behind": NOTHING + "x",
    "empty": "",
    "words": "resnet18",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_cells_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a cell of NAS-Bench-201"):
        cell_kernels(text)


def test_unknown_operations_are_listed() -> None:
    with pytest.raises(InvalidInput, match="unknown operations: max_pool_3x3, sep_conv"):
        cell_kernels(cell(("sep_conv", "none", "none", "max_pool_3x3", "none", "sep_conv")))


def test_names_of_other_networks_are_no_cells() -> None:
    assert not any(map(is_cell, ("resnet18", "timm:resnet18", "a|b", "")))
    assert all(map(is_cell, itertools.islice(map(cell, itertools.product(OPERATIONS, repeat=6)), 10)))
