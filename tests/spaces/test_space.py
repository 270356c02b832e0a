"""Spaces and subnets by name: what was encoded decodes to itself, what never was one is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milliseek.errors import InvalidInput, NotFound
from milliseek.spaces.hyperspace import HYPERSPACES, ONNXW, SMALL32, TINY32, hyperspace_named
from milliseek.spaces.space import Space, Subnet, extreme_subnet, random_space, random_subnet

SUBNET = "d1#1#1#1#1#1_k3#3#3#3#3#3_w16#16#16#24#48#96_e0#1.0#4.0#4.0#4.0#4.0_r24"
SPACE = "small32-1111-0000"

hyperspaces = st.sampled_from([TINY32, SMALL32, ONNXW])
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)

# Published in the release of SpaceEvo (microsoft/Moonlit, search_result.yaml): genomes, and millions of parameters.
PUBLISHED_SPACE = "onnxw-151122-023231"
PUBLISHED = {
    "d1#1#2#2#2#2#2#1_k3#3#3#3#3#3#3#3#3#3#3#3#3_w16#16#32#32#64#64#112#112#144#144#240#240#320"
    "_e0#0.5#4.0#4.0#1.0#1.0#4.0#4.0#4.0#4.0#4.0#4.0#4.0_r160": 7.80,
    "d1#1#2#2#3#2#3#1_k3#3#3#3#3#3#3#5#3#3#3#3#3#3#5_w16#16#32#32#64#80#128#112#112#144#176#304#304#256#368"
    "_e0#0.5#4.0#4.0#2.0#1.0#4.0#6.0#4.0#4.0#4.0#4.0#6.0#4.0#4.0_r192": 11.96,
    "d1#1#2#2#4#4#4#1_k3#3#3#3#3#3#3#3#5#5#3#5#5#3#3#3#3#3#5"
    "_w16#16#32#32#64#64#112#112#112#128#144#144#160#160#288#272#288#256#320"
    "_e0#0.5#4.0#6.0#3.0#2.0#4.0#4.0#6.0#8.0#8.0#4.0#4.0#4.0#4.0#6.0#6.0#4.0#4.0_r208": 14.52,
    "d1#1#2#2#3#4#4#1_k3#3#3#3#3#3#5#5#5#3#3#5#3#3#5#3#3#3"
    "_w16#32#32#48#80#80#144#128#112#144#176#144#144#272#288#272#240#320"
    "_e0#0.5#4.0#8.0#4.0#2.0#6.0#6.0#6.0#6.0#8.0#4.0#4.0#8.0#6.0#4.0#6.0#6.0_r224": 15.93,
    "d1#1#3#3#4#5#4#2_k3#3#3#5#3#3#3#3#5#5#5#5#5#3#3#3#5#3#5#5#3#3#3"
    "_w16#32#32#48#32#64#80#80#128#128#144#128#160#144#144#144#176#256#272#272#272#336#320"
    "_e0#0.5#4.0#8.0#6.0#4.0#2.0#2.0#6.0#8.0#6.0#6.0#8.0#8.0#6.0#4.0#6.0#8.0#8.0#6.0#4.0#8.0#6.0_r224": 23.37,
}


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


@pytest.mark.parametrize(("genome", "millions"), PUBLISHED.items(), ids=["A0", "A1", "A2", "A3", "A4"])
def test_published_subnets_decode_and_have_their_parameters(genome, millions):
    encoding = f"{PUBLISHED_SPACE}:{genome}"
    subnet = Subnet.decode(encoding)
    assert subnet.encoding == encoding
    assert subnet.network(classes=1000).params / 1e6 == pytest.approx(millions, rel=0.002)


def test_the_number_of_published_spaces():
    assert ONNXW.size == 95_551_488


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
