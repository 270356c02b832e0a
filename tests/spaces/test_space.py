"""Spaces and subnets by name: what was encoded decodes to itself, what never was one is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milliseek.errors import InvalidInput, NotFound
from milliseek.spaces.hyperspace import HYPERSPACES, MOBILEW, ONNXW, SMALL32, TINY32, hyperspace_named
from milliseek.spaces.space import Space, Subnet, extreme_subnet, named_space, random_space, random_subnet

SUBNET = "d1#1#1#1#1#1_k3#3#3#3#3#3_w16#16#16#24#48#96_e0#1.0#4.0#4.0#4.0#4.0_r24"
SPACE = "small32-1111-0000"

hyperspaces = st.sampled_from([TINY32, SMALL32, ONNXW, MOBILEW])
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(deadline=None)
@given(hyperspaces, generators)
def test_a_space_is_its_encoding(hyperspace, rng):
    space = random_space(hyperspace, rng)
    assert Space.decode(space.encoding) == space


@settings(deadline=None)
@given(hyperspaces, generators)
def test_a_subnet_is_its_encoding(hyperspace, rng):
    subnet = random_subnet(random_space(hyperspace, rng), rng)
    assert subnet.is_legal
    assert Subnet.decode(subnet.encoding) == subnet


def test_the_numbers_of_published_spaces():
    assert ONNXW.size == 95_551_488
    assert MOBILEW.size == 1_185_901_920


def test_hyperspaces_are_found_by_name():
    assert all(hyperspace_named(name) is hyperspace for name, hyperspace in HYPERSPACES.items())
    with pytest.raises(NotFound, match=r"'big32'.*small32"):
        hyperspace_named("big32")


@settings(deadline=None)
@given(hyperspaces, generators)
def test_extreme_subnets_bound_all_others(hyperspace, rng):
    space = random_space(hyperspace, rng)
    smallest, some, largest = (
        subnet.network(10)
        for subnet in (
            extreme_subnet(space, largest=False),
            random_subnet(space, rng),
            extreme_subnet(space, largest=True),
        )
    )
    assert smallest.macs <= some.macs <= largest.macs
    assert smallest.params <= some.params <= largest.params


def test_stages_halve_the_picture_where_they_say_so():
    subnet = random_subnet(Space.decode(SPACE), np.random.default_rng(0), resolution=28)
    heights = {layer.name: layer.out_hw for layer in subnet.network(10).layers}
    assert [heights[f"s{s}.0.add"] for s in range(5)] == [28, 28, 14, 7, 7]
    assert [out for _, out in SMALL32.stage_hw(28)] == [28, 28, 14, 7, 7]


@pytest.mark.parametrize(
    "encoding",
    [
        *("", "small32", "small32-1111", "small32-111-000", "small32-11111-00000", "small32-6111-0000"),
        *("small32-1111-9000", "Small32-1111-0000", "small32-11x1-0000", "small32-1111-0000 "),
        "small32-\uff11111-0000",  # a digit of another script
    ],
)
def test_what_is_no_space(encoding):
    with pytest.raises(InvalidInput):
        Space.decode(encoding)


def test_hand_made_spaces_need_a_target():
    for decode in (named_space, Space.decode):
        with pytest.raises(InvalidInput, match=r"only for a target.*spaces score small32:mobilenetv2 --study"):
            decode("small32:mobilenetv2")


def test_a_space_of_an_unknown_hyperspace():
    with pytest.raises(NotFound, match="Known hyperspaces"):
        Space.decode("small33-1111-0000")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("d1#1#1#1#1#1", "d1#1#1#1#1"),
        ("d1#1#1#1#1#1", "d1#1#1#1##1"),
        ("d1#1#1#1#1#1", "d1#1#0#1#1#1"),
        ("d1#1#1#1#1#1", "d2#1#1#1#1#0"),
        ("k3#3#3#3#3#3", "k3#3#3#3#3"),
        ("k3#3#3#3#3#3", "k3#3#3#9#3#3"),
        ("k3#3#3#3#3#3", "k5#3#3#3#3#3"),
        ("w16#16", "w16#17"),
        ("w16#16", "w#16"),
        ("w16#16", "w17#16"),
        ("e0#1.0#4.0", "e0#1.0#4.5"),
        ("e0#1.0#4.0", "e0#1.0#4.0.0"),
        ("e0#1.0#4.0", "e1.0#1.0#4.0"),
        ("r24", "r25"),
        ("r24", "r0"),
        ("r24", "r" + "9" * 5000),
        ("r24", ""),
    ],
)
def test_what_is_no_subnet(old, new):
    assert Subnet.decode(f"{SPACE}:{SUBNET}").genome == SUBNET
    with pytest.raises(InvalidInput):
        Subnet.decode(f"{SPACE}:{SUBNET.replace(old, new)}")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_crashes_the_decoders(text):
    for decode in (Space.decode, Subnet.decode, lambda t: Subnet.decode(f"{SPACE}:{t}")):
        with pytest.raises((InvalidInput, NotFound)):
            decode(text)
