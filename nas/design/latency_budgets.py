"""Latency budgets for those who have none in mind."""

from __future__ import annotations

import numpy as np

from ...predictors.lookups.lookup import LatencyLookup
from ...spaces.codes import encode_genes
from ...spaces.hyperspace import Hyperspace
from ...spaces.space import random_space, random_subnet

BUDGET_QUANTILES = (0.12, 0.35, 0.65)
"""Where among the latencies of random subnets of random spaces the default latency budgets lie."""


def default_budgets_ms(hyperspace: Hyperspace, lookup: LatencyLookup, seed: int = 0) -> tuple[float, ...]:
    """Three latency budgets that networks of this hyperspace can meet on the table's target, two digits each."""
    rng = np.random.default_rng(seed)
    latency_ms = []
    for _ in range(200):
        space = random_space(hyperspace, rng)
        genes = encode_genes([random_subnet(space, rng) for _ in range(5)])
        latency_ms.append(lookup.subnets_ms(space, genes))
    return tuple(float(f"{value:.2g}") for value in np.quantile(np.concatenate(latency_ms), BUDGET_QUANTILES))
