"""Lookups in latency tables: the sum over a subnet's blocks, for many subnets at once."""

import numpy as np
import pytest

from milliseek.errors import InvalidInput, NotReady
from milliseek.predictors.lookups import lookup as module
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.results import LatencyTable
from milliseek.spaces.codes import HEAD, STEM, BlockKey, block_keys, encode_genes
from milliseek.spaces.hyperspace import SMALL32, TINY32
from milliseek.spaces.space import Space, random_space, random_subnet

SPACE = Space.decode("tiny32-4451-0102")


def table_of(space, keys):
    latency_ms = np.random.default_rng(0).uniform(0.1, 1.0, len(keys))
    return LatencyTable(space, "here/x/int8", "here/x/int8@1", np.array(keys, np.int32), latency_ms, 0.25, (0.1, 0.1))


def one_by_one(lookup, subnet):
    """What the blocks of a subnet cost, each looked up by its key."""
    keys = [BlockKey(subnet.resolution, STEM, -1, 3, subnet.stem_width, 3, 100, 1)]
    cin = subnet.stem_width
    for s, blocks in enumerate(subnet.stages):
        for i, (width, kernel, expand) in enumerate(blocks):
            block = subnet.space.stage_block(s)
            keys.append(BlockKey(subnet.resolution, s, block, cin, width, kernel, round(100 * expand), int(i == 0)))
            cin = width
    keys.append(BlockKey(subnet.resolution, HEAD, -1, cin, 0, 1, 100, 0))
    return lookup.table.constant_ms + lookup.block_ms(keys).sum()


@pytest.mark.parametrize("hyperspace", [TINY32, SMALL32], ids=lambda hyperspace: hyperspace.name)
def test_a_subnet_is_the_sum_of_its_blocks(hyperspace, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    lookup = LatencyLookup(table_of(hyperspace.name, block_keys(hyperspace)))
    rng = np.random.default_rng(1)
    for _ in range(12):
        space = random_space(hyperspace, rng)
        subnets = [random_subnet(space, rng) for _ in range(20)]
        expected = [one_by_one(lookup, subnet) for subnet in subnets]
        assert lookup.subnets_ms(space, encode_genes(subnets)) == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def lookup():
    return LatencyLookup(table_of(SPACE.encoding, block_keys(TINY32, SPACE)))


@pytest.fixture
def genes():
    rng = np.random.default_rng(2)
    return encode_genes([random_subnet(SPACE, rng) for _ in range(5)])


def test_any_integers_will_do(lookup, genes):
    expected = lookup.subnets_ms(SPACE, genes)
    assert lookup.subnets_ms(SPACE, genes.astype(np.int64)) == pytest.approx(expected)
    assert lookup.subnets_ms(SPACE, np.asfortranarray(genes).astype(np.uint16)) == pytest.approx(expected)
    assert lookup.subnets_ms(SPACE, genes[:0]).shape == (0,)


@pytest.mark.parametrize("column", range(8))
@pytest.mark.parametrize("value", [0, -1, 7, 33, 4095, 2**31 - 1, -(2**31)])
def test_what_is_no_subnet_is_named_by_its_row(lookup, genes, column, value):
    genes[3, column] = value
    with pytest.raises(InvalidInput, match="Row 3 "):
        lookup.subnets_ms(SPACE, genes)


def test_what_stands_in_absent_blocks_does_not_matter(lookup, genes):
    before = lookup.subnets_ms(SPACE, genes)
    stage_1 = 2 + 4
    genes[genes[:, stage_1] == 1, stage_1 + 4 : stage_1 + 7] = -5
    assert lookup.subnets_ms(SPACE, genes) == pytest.approx(before)


def test_genes_of_another_shape(lookup, genes):
    for wrong in (genes[0], genes[:, :-1], np.zeros((0, 3), int)):
        with pytest.raises(InvalidInput, match="are an array"):
            lookup.subnets_ms(SPACE, wrong)


def test_blocks_that_the_table_lacks(genes):
    keys = block_keys(TINY32, Space.decode("tiny32-0000-0000"))
    lookup = LatencyLookup(table_of("tiny32-0000-0000", keys))
    with pytest.raises(NotReady, match="lacks a block"):
        lookup.subnets_ms(SPACE, genes)
    with pytest.raises(NotReady, match="lacks a block"):
        lookup.block_ms([keys[0], keys[1]._replace(resolution=99)])
