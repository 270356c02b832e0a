"""Looking subnets up in a latency table: a gather and a sum, many subnets at once."""

from __future__ import annotations

import numpy as np

from ..errors import NotReady
from ..results import LatencyTable
from ..spaces.codes import BlockKey, pack_keys, subnet_keys
from ..spaces.space import Space


class LatencyLookup:
    """Looks blocks and subnets up in a `LatencyTable`; a subnet costs the constant plus the sum of its blocks."""

    def __init__(self, table: LatencyTable) -> None:
        packed = pack_keys(table.keys)
        order = np.argsort(packed)
        self.table = table
        self._keys, self._latency_ms = packed[order], table.latency_ms[order]

    def packed_ms(self, keys: np.ndarray) -> np.ndarray:
        """Milliseconds (...,) of packed block keys (...,); raises NotReady if the table lacks one."""
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        if not np.array_equal(self._keys[at], keys):
            raise NotReady(
                f"The latency table of '{self.table.space}' on {self.table.target} lacks a block of this space.",
                "It was compiled for other spaces; compile it again.",
            )
        return np.asarray(self._latency_ms[at])

    def block_ms(self, keys: list[BlockKey]) -> np.ndarray:
        """Milliseconds (keys,)."""
        return self.packed_ms(pack_keys(np.array(keys, np.int32).reshape(-1, len(BlockKey._fields))))

    def subnets_ms(self, space: Space, genes: np.ndarray) -> np.ndarray:
        """Milliseconds (subnets,) of the genes (subnets, gene_count) of `encode_genes`."""
        total = np.full(len(genes), self.table.constant_ms)
        for keys, present in subnet_keys(space, genes):
            total[present] += self.packed_ms(keys[present])
        return total
