"""Subnets and blocks as arrays of integers: how they travel, and how latency tables are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from ..errors import InvalidInput
from .blocks import BlockChoice
from .hyperspace import Hyperspace
from .layers import Layer, NetworkBuilder
from .space import Space, Subnet, emit_head

STEM, HEAD = -1, -2
"""`stage` of the two parts that are no stage."""


class BlockKey(NamedTuple):
    """One block with everything that its latency depends on; one row of a latency table.

    `stage` counts from 0 (the fixed stage); STEM holds everything up to the stem convolution's output, HEAD
    everything from the last stage's output on. `expand_pct` is 100 x the expansion; `first` is 1 for the block that
    carries the stage's stride.
    """

    resolution: int
    stage: int
    block: int
    cin: int
    cout: int
    kernel: int
    expand_pct: int
    first: int


_BITS = BlockKey(resolution=10, stage=5, block=5, cin=12, cout=12, kernel=4, expand_pct=12, first=1)
_OFFSET = BlockKey(resolution=0, stage=2, block=1, cin=0, cout=0, kernel=0, expand_pct=0, first=0)


def pack_keys(keys: np.ndarray) -> np.ndarray:
    """int64 (...,) that orders and identifies the block keys (..., columns)."""
    packed = np.zeros(keys.shape[:-1], np.int64)
    for column, (bits, offset) in enumerate(zip(_BITS, _OFFSET, strict=True)):
        packed = (packed << bits) | (keys[..., column].astype(np.int64) + offset)
    return packed


def block_layers(hyperspace: Hyperspace, key: BlockKey) -> tuple[Layer, ...]:
    """Layers of one block, standing alone."""
    if key.stage == STEM:
        b = NetworkBuilder(key.resolution)
        b.conv("stem", "input", key.cout, 3, hyperspace.stem_stride, act=hyperspace.act)
        return tuple(b.layers)
    sizes = hyperspace.stage_hw(key.resolution)
    if key.stage == HEAD:
        b = NetworkBuilder(sizes[-1][1], key.cin)
        emit_head(b, hyperspace, "input", hyperspace.nominal_classes)
        return tuple(b.layers)
    b = NetworkBuilder(sizes[key.stage][1 - key.first], key.cin)
    stride = hyperspace.stages[key.stage].stride if key.first else 1
    choice = BlockChoice(key.cout, key.kernel, key.expand_pct / 100)
    hyperspace.block_type(key.stage, key.block).emit(b, "block", "input", choice, stride)
    return tuple(b.layers)


def block_keys(hyperspace: Hyperspace, space: Space | None = None) -> list[BlockKey]:
    """Every block that a subnet of `space`, or of any space of the hyperspace, can contain; sorted."""
    keys: set[BlockKey] = set()
    for resolution in hyperspace.resolutions:
        keys.update(BlockKey(resolution, STEM, -1, 3, width, 3, 100, 1) for width in hyperspace.stem_widths)
        entering = set(hyperspace.stem_widths)
        for s, stage in enumerate(hyperspace.stages):
            windows, types = _choices(hyperspace, space, s)
            for window, block in product(windows, types):
                for first in (1, 0) if max(stage.depths) > 1 else (1,):
                    keys.update(
                        BlockKey(resolution, s, block, cin, cout, kernel, pct, first)
                        for cin, cout, (kernel, pct) in product(entering if first else window, window, types[block])
                    )
            entering = {width for window in windows for width in window}
        keys.update(BlockKey(resolution, HEAD, -1, width, 0, 1, 100, 0) for width in entering)
    return sorted(keys)


def _choices(
    hyperspace: Hyperspace, space: Space | None, s: int
) -> tuple[tuple[tuple[int, ...], ...], dict[int, list[tuple[int, int]]]]:
    """Width windows of a stage, and the (kernel, expand_pct) choices of its block types."""
    if space is not None:
        windows: tuple[tuple[int, ...], ...] = (space.stage_widths(s),)
        blocks = [space.stage_block(s)]
    else:
        windows = hyperspace.stages[s].windows
        blocks = list(range(len(hyperspace.blocks))) if s else [0]
    types = {block: hyperspace.block_type(s, block) for block in blocks}
    return windows, {
        block: [(kernel, round(100 * expand)) for kernel, expand in product(of_type.kernels, of_type.expands)]
        for block, of_type in types.items()
    }


def gene_count(hyperspace: Hyperspace) -> int:
    """Length of a subnet's genes: resolution, stem width, then per stage its depth and 3 numbers a possible block."""
    return 2 + sum(1 + 3 * max(stage.depths) for stage in hyperspace.stages)


def encode_genes(subnets: Sequence[Subnet]) -> np.ndarray:
    """int32 (subnets, gene_count): resolution, stem width, per stage: depth, then width, kernel, 100 x expansion of
    each block, zeros where the stage is shallower than it could be. All subnets are of one hyperspace.

    Block types with one expansion ignore what a subnet says of it (the published ones differ): it is written as theirs.
    """
    hyperspace = subnets[0].space.hyperspace
    genes = np.zeros((len(subnets), gene_count(hyperspace)), np.int32)
    for row, subnet in zip(genes, subnets, strict=True):
        row[:2] = subnet.resolution, subnet.stem_width
        position = 2
        for s, (stage, blocks) in enumerate(zip(hyperspace.stages, subnet.stages, strict=True)):
            row[position] = len(blocks)
            expands = subnet.space.stage_type(s).expands
            for i, block in enumerate(blocks):
                at = position + 1 + 3 * i
                expand = block.expand if len(expands) > 1 else expands[0]
                row[at : at + 3] = block.width, block.kernel, round(100 * expand)
            position += 1 + 3 * max(stage.depths)
    return genes


def check_genes(space: Space, genes: np.ndarray) -> None:
    """Raise InvalidInput, naming the row, unless all rows of `genes` (subnets, gene_count) are subnets of the space."""
    count = gene_count(space.hyperspace)
    if genes.ndim != 2 or genes.shape[1] != count:
        raise InvalidInput(f"Subnets of {space.encoding} are an array (subnets, {count}), not {genes.shape}.")
    good = np.isin(genes[:, 0], space.hyperspace.resolutions) & np.isin(genes[:, 1], space.hyperspace.stem_widths)
    position = 2
    for s, stage in enumerate(space.hyperspace.stages):
        block_type = space.stage_type(s)
        legal = (space.stage_widths(s), block_type.kernels, [round(100 * expand) for expand in block_type.expands])
        depth = genes[:, position]
        good &= np.isin(depth, stage.depths)
        for i in range(max(stage.depths)):
            for column, values in enumerate(legal, position + 1 + 3 * i):
                good &= (depth <= i) | np.isin(genes[:, column], values)
        position += 1 + 3 * max(stage.depths)
    if not good.all():
        row = int(np.argmin(good))
        raise InvalidInput(f"Row {row} of the genes encodes no subnet of {space.encoding}: {genes[row].tolist()}.")


def decode_genes(space: Space, genes: np.ndarray) -> Subnet:
    """Inverse of `encode_genes` for one row (gene_count,); raises InvalidInput for what is no subnet of the space."""
    check_genes(space, genes[None])
    stages = []
    position = 2
    for stage in space.hyperspace.stages:
        rows = genes[position + 1 : position + 1 + 3 * int(genes[position])].reshape(-1, 3)
        stages.append(tuple(BlockChoice(int(w), int(k), int(e) / 100) for w, k, e in rows))
        position += 1 + 3 * max(stage.depths)
    return Subnet(space, int(genes[0]), int(genes[1]), tuple(stages))
