"""Search without training: of random subnets within each latency budget, the one with the best proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InvalidInput
from ...predictors.lookups.lookup import LatencyLookup
from ...spaces.codes import encode_genes
from ...spaces.space import Space, Subnet, random_subnet
from ..quality.proxies import Proxy, ProxyTask

ATTEMPTS = 50
"""Batches of random subnets drawn to find enough that meet a budget."""


@dataclass(frozen=True)
class ProxyChoice:
    """The best subnet of one budget by a proxy."""

    subnet: Subnet
    budget_ms: float
    latency_ms: float
    score: float


def search_by_proxy(
    space: Space,
    lookup: LatencyLookup,
    proxy: Proxy,
    task: ProxyTask,
    budgets_ms: Sequence[float],
    *,
    samples: int,
    seed: int = 0,
    on_network: Callable[[int, int], None] = lambda *_: None,
) -> list[ProxyChoice]:
    """For each budget the best of `samples` random subnets that are no slower; raises InvalidInput where none is."""
    chosen = []
    for i, budget_ms in enumerate(sorted(budgets_ms)):
        found = fast_subnets(space, lookup, budget_ms, samples, np.random.default_rng((seed, i)))
        scored = []
        for done, (subnet, latency_ms) in enumerate(found, 1):
            scored.append(ProxyChoice(subnet, budget_ms, latency_ms, proxy(subnet, task)))
            on_network(i * samples + done, len(budgets_ms) * samples)
        chosen.append(max(scored, key=lambda choice: choice.score))
    return chosen


def fast_subnets(
    space: Space, lookup: LatencyLookup, budget_ms: float, count: int, rng: np.random.Generator
) -> list[tuple[Subnet, float]]:
    """Up to `count` random subnets with their milliseconds, none slower than the budget; raises InvalidInput."""
    found: list[tuple[Subnet, float]] = []
    for _ in range(ATTEMPTS):
        drawn = [random_subnet(space, rng) for _ in range(count)]
        latency_ms = lookup.subnets_ms(space, encode_genes(drawn))
        found += [(subnet, float(ms)) for subnet, ms in zip(drawn, latency_ms, strict=True) if ms <= budget_ms]
        if len(found) >= count:
            break
    if not found:
        raise InvalidInput(f"No random subnet of {space.encoding} takes {budget_ms:g} ms or less.", "Raise the budget.")
    return found[:count]
