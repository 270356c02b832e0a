"""Subnets as integers: genes come back as the subnet they were, and blocks say all that a network consists of."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.spaces.blocks import BlockChoice
from milliseek.spaces.codes import (
    HEAD,
    STEM,
    BlockKey,
    block_keys,
    block_layers,
    check_genes,
    decode_genes,
    encode_genes,
    gene_count,
    pack_keys,
)
from milliseek.spaces.groups import layer_groups
from milliseek.spaces.hyperspace import MOBILEW, ONNXW, SMALL32, TINY32
from milliseek.spaces.space import Space, Subnet, random_space, random_subnet

hyperspaces = st.sampled_from([TINY32, SMALL32, ONNXW, MOBILEW])
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@pytest.fixture(scope="module")
def packed_keys():
    """Block key by packed key, for each hyperspace."""
    found = {}
    for hyperspace in (TINY32, SMALL32, ONNXW, MOBILEW):
        keys = block_keys(hyperspace)
        found[hyperspace] = dict(zip(pack_keys(np.array(keys, np.int32)).tolist(), keys, strict=True))
    return found


@settings(deadline=None)
@given(hyperspaces, generators)
def test_genes_come_back_as_their_subnets(hyperspace, rng):
    space = random_space(hyperspace, rng)
    subnets = [random_subnet(space, rng) for _ in range(4)]
    genes = encode_genes(subnets)
    assert genes.shape == (4, gene_count(hyperspace))
    assert [decode_genes(space, row) for row in genes] == subnets
    check_genes(space, genes)


def test_the_expansion_of_a_block_that_has_but_one_is_written_as_that():
    subnet = random_subnet(Space.decode("tiny32-1111-0000"), np.random.default_rng(0))
    (fixed,), *others = subnet.stages
    published = replace(subnet, stages=((fixed._replace(expand=0.5),), *others))
    assert np.array_equal(encode_genes([published]), encode_genes([subnet]))


@pytest.mark.parametrize("hyperspace", [TINY32, SMALL32, ONNXW, MOBILEW], ids=lambda h: h.name)
def test_no_two_block_keys_pack_to_the_same_number(packed_keys, hyperspace):
    keys = block_keys(hyperspace)
    assert keys == sorted(set(keys))
    assert len(packed_keys[hyperspace]) == len(keys)
    assert list(packed_keys[hyperspace]) == sorted(packed_keys[hyperspace]), "packed keys have the order of the keys"


def blocks_of(subnet):
    """Keys of its blocks, in order."""
    found = [BlockKey(subnet.resolution, STEM, -1, 3, subnet.stem_width, 3, 100, 1)]
    cin = subnet.stem_width
    for s, blocks in enumerate(subnet.stages):
        for i, (width, kernel, expand) in enumerate(blocks):
            block = subnet.space.stage_block(s)
            found.append(BlockKey(subnet.resolution, s, block, cin, width, kernel, round(100 * expand), int(i == 0)))
            cin = width
    return [*found, BlockKey(subnet.resolution, HEAD, -1, cin, 0, 1, 100, 0)]


@settings(deadline=None, max_examples=60)
@given(hyperspaces, generators)
def test_blocks_add_up_to_the_network(hyperspace, rng):
    subnet = random_subnet(random_space(hyperspace, rng), rng)
    blocks = [block_layers(hyperspace, key) for key in blocks_of(subnet)]
    network = subnet.network(hyperspace.nominal_classes)
    layers = Counter(layer.workload for layer in network.layers)
    assert Counter(layer.workload for block in blocks for layer in block) == layers


@settings(deadline=None, max_examples=60)
@given(hyperspaces, generators, st.sampled_from([(), ("linear",), ("add", "linear")]))
def test_the_groups_of_the_blocks_add_up_to_those_of_the_network(hyperspace, rng, joined):
    subnet = random_subnet(random_space(hyperspace, rng), rng)
    groups = Counter(
        group for key in blocks_of(subnet) for group in layer_groups(block_layers(hyperspace, key), joined)
    )
    assert groups == Counter(layer_groups(subnet.network(hyperspace.nominal_classes).layers, joined))


@settings(deadline=None, max_examples=20)
@given(generators)
def test_a_space_offers_no_block_beyond_its_hyperspace_and_all_of_its_subnets(packed_keys, rng):
    space = random_space(SMALL32, rng)
    own = set(block_keys(SMALL32, space))
    assert own < set(packed_keys[SMALL32].values())
    for _ in range(20):
        assert own.issuperset(blocks_of(random_subnet(space, rng)))


def test_every_layer_of_a_random_network_is_among_those_of_the_hyperspace():
    layers = {layer.workload for key in block_keys(TINY32) for layer in block_layers(TINY32, key)}
    rng = np.random.default_rng(3)
    for _ in range(20):
        network = random_subnet(random_space(TINY32, rng), rng).network(TINY32.nominal_classes)
        assert {layer.workload for layer in network.layers} <= layers


def test_the_head_of_a_block_key_ends_in_the_nominal_classes():
    head = block_layers(ONNXW, BlockKey(224, HEAD, -1, 304, 0, 1, 100, 0))
    assert [(layer.op, layer.cout) for layer in head] == [
        ("conv", 1280),
        ("pool", 1280),
        ("conv", 1920),
        ("linear", 1000),
    ]


def damaged(column, value):
    space = Space.decode("small32-1111-0000")
    genes = encode_genes([random_subnet(space, np.random.default_rng(i)) for i in range(3)])
    genes[1, column] = value
    return space, genes


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, 0), (0, 33), (1, 17), (1, -16), (2, 0), (2, 2), (2, 2**31 - 1), (3, 8), (4, 7), (5, 150), (6, -1), (6, 4)],
)
def test_genes_that_encode_no_subnet_name_their_row(column, value):
    space, genes = damaged(column, value)
    with pytest.raises(InvalidInput, match="Row 1 "):
        check_genes(space, genes)
    with pytest.raises(InvalidInput):
        decode_genes(space, genes[1])


def test_what_stands_in_the_genes_of_absent_blocks_does_not_matter():
    space = Space.decode("small32-1111-0000")
    shallow = Subnet(
        space, 24, 16, tuple((BlockChoice(space.stage_widths(s)[0], 3, 4.0 if s else 1.0),) for s in range(5))
    )
    genes = encode_genes([shallow])
    assert genes[0, 10] == 0
    genes[0, 10] = 77
    assert decode_genes(space, genes[0]) == shallow


@pytest.mark.parametrize("shape", [(0,), (1, 5), (2, 100), (3,)])
def test_genes_of_another_shape(shape):
    with pytest.raises(InvalidInput):
        check_genes(Space.decode("small32-1111-0000"), np.zeros(shape, np.int32))


def test_no_subnets_are_fine():
    space = Space.decode("small32-1111-0000")
    check_genes(space, np.zeros((0, gene_count(SMALL32)), np.int32))
