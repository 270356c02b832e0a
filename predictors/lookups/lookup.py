"""Looking subnets up in a latency table: a gather and a sum, many subnets at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from ...errors import NotReady
from ...results import LatencyTable
from ...spaces.codes import HEAD, STEM, BlockKey, check_genes, gene_count, pack_keys
from ...spaces.space import Space

CHUNK = 4096
"""Subnets looked up together: what is computed on the way stays in the processor's cache."""
REMEMBERED_SPACES = 16
_NO_CHOICE = 1 << 28
"""Position of a value that is none of the choices: outside every grid, and five of them are below 2^31."""

Find = Callable[[Sequence[BlockKey]], np.ndarray]
"""Milliseconds (keys,), NaN for blocks that the table lacks."""


class LatencyLookup:
    """Looks blocks and subnets up in a `LatencyTable`; a subnet costs the constant plus the sum of its blocks."""

    def __init__(self, table: LatencyTable) -> None:
        packed = pack_keys(table.keys)
        order = np.argsort(packed)
        self.table = table
        self._keys, self._latency_ms = packed[order], table.latency_ms[order]
        self._in_space = lru_cache(maxsize=REMEMBERED_SPACES)(lambda space: _SpaceGrids(space, self._find))

    def block_ms(self, keys: Sequence[BlockKey]) -> np.ndarray:
        """Milliseconds (keys,); raises NotReady if the table lacks one."""
        found = self._find(keys)
        if np.isnan(found).any():
            raise self._lacks_a_block()
        return found

    def subnets_ms(self, space: Space, genes: np.ndarray) -> np.ndarray:
        """Milliseconds (subnets,) of the genes (subnets, gene_count) of `encode_genes`.

        Raises InvalidInput, naming the row, for genes that are no subnet of the space, NotReady if the table lacks one
        of its blocks.
        """
        if genes.ndim != 2 or genes.shape[1] != gene_count(space.hyperspace):
            check_genes(space, genes)
        grids = self._in_space(space)
        total = np.empty(len(genes))
        for start in range(0, len(genes), CHUNK):
            chunk = slice(start, start + CHUNK)
            total[chunk] = grids.latency_ms(np.ascontiguousarray(genes[chunk].T, np.intp))
        if np.isnan(total).any():
            check_genes(space, genes)
            raise self._lacks_a_block()
        return total + self.table.constant_ms

    def _find(self, keys: Sequence[BlockKey]) -> np.ndarray:
        packed = pack_keys(np.array(keys, np.int32).reshape(-1, len(BlockKey._fields)))
        at = np.minimum(np.searchsorted(self._keys, packed), len(self._keys) - 1)
        return np.where(self._keys[at] == packed, self._latency_ms[at], np.nan)

    def _lacks_a_block(self) -> NotReady:
        return NotReady(
            f"The latency table of '{self.table.space}' on {self.table.target} lacks a block of this space.",
            "It was compiled for other spaces; compile it again.",
        )


class _Grid:
    """Milliseconds of every combination of choices, flat, found by adding up the positions of the choices."""

    def __init__(self, axes: Sequence[Sequence[int]], find: Find, key: Callable[..., BlockKey]) -> None:
        self._ms = np.append(find([key(*choice) for choice in product(*axes)]), np.nan)
        self._positions = []
        stride = len(self._ms) - 1
        for values in axes:
            stride //= len(values)
            positions = np.full(max(values) + 2, _NO_CHOICE, np.intp)
            positions[list(values)] = np.arange(len(values)) * stride
            self._positions.append(positions)

    def latency_ms(self, *chosen: np.ndarray | None) -> np.ndarray:
        """(n,) of the choices (n,) on each axis, None for the first one throughout.

        NaN where a value is no choice, or where the table lacks the block.
        """
        # Clipped, a value beyond the last one and a negative one (as 0 is no gene) are no choice either.
        first, *others = (
            positions.take(values, mode="clip")
            for positions, values in zip(self._positions, chosen, strict=True)
            if values is not None
        )
        for other in others:
            first += other
        return self._ms.take(first, mode="clip")


class _StageGrids:
    """The blocks of one stage of a space: those that come first in it, and the others."""

    def __init__(self, space: Space, s: int, entering: Sequence[int], find: Find) -> None:
        stage, block_type = space.hyperspace.stages[s], space.stage_type(s)
        self.widths = space.stage_widths(s)
        self._depth_ms = np.full(max(stage.depths) + 2, np.nan)
        self._depth_ms[list(stage.depths)] = 0.0
        expands = [round(100 * expand) for expand in block_type.expands]

        def grid(first: int, cins: Sequence[int]) -> _Grid:
            def key(resolution: int, cin: int, cout: int, kernel: int, expand_pct: int) -> BlockKey:
                return BlockKey(resolution, s, space.stage_block(s), cin, cout, kernel, expand_pct, first)

            axes = (space.hyperspace.resolutions, cins, self.widths, block_type.kernels, expands)
            return _Grid(axes, find, key)

        self._first, self._others = grid(1, entering), grid(0, self.widths)

    def latency_ms(self, resolution: np.ndarray, genes: np.ndarray, cin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Milliseconds of the stage and the width behind it, from its genes; all (n,) but those (1 + 3 * blocks, n)."""
        depth, width = genes[:2]
        total = self._depth_ms.take(depth, mode="clip")
        total += self._first.latency_ms(resolution, cin, *genes[1:4])
        for i in range(1, len(genes) // 3):
            cin, (width, kernel, expand) = width, genes[1 + 3 * i : 4 + 3 * i]
            present = depth > i
            total += np.where(present, self._others.latency_ms(resolution, cin, width, kernel, expand), 0.0)
            width = np.where(present, width, cin)
        return total, width


class _SpaceGrids:
    """All blocks of one space."""

    def __init__(self, space: Space, find: Find) -> None:
        hyperspace = space.hyperspace
        resolutions, widths = hyperspace.resolutions, hyperspace.stem_widths
        self._stem = _Grid((resolutions, widths), find, lambda r, w: BlockKey(r, STEM, -1, 3, w, 3, 100, 1))
        self._stages = []
        for s in range(len(hyperspace.stages)):
            self._stages.append(_StageGrids(space, s, widths, find))
            widths = self._stages[-1].widths
        self._ends = np.cumsum([1 + 3 * max(stage.depths) for stage in hyperspace.stages])[:-1]
        self._head = _Grid((resolutions, widths), find, lambda r, w: BlockKey(r, HEAD, -1, w, 0, 1, 100, 0))

    def latency_ms(self, genes: np.ndarray) -> np.ndarray:
        """(n,) of the genes (gene_count, n); NaN for what is no subnet, or has a block that the table lacks."""
        resolution, width = genes[:2]
        total = self._stem.latency_ms(resolution, width)
        for stage, own in zip(self._stages, np.split(genes[2:], self._ends), strict=True):
            stage_ms, width = stage.latency_ms(resolution, own, width)
            total += stage_ms
        total += self._head.latency_ms(resolution, width)
        return total
