"""Networks whose quality is predicted: put together from the sub-stages of a quality table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InvalidInput
from ...predictors.lookups.lookup import LatencyLookup
from ...spaces.codes import encode_genes
from ...spaces.space import Space, Subnet
from ..quality.stage_quality import StageQuality

DRAWN = 1000
ATTEMPTS = 100
"""Lots of so many subnets that are drawn to find enough that meet a constraint."""


@dataclass(frozen=True)
class PredictedSubnet:
    """A subnet with the sum of its stages' NSR, lower is better, and its predicted milliseconds."""

    subnet: Subnet
    nsr: float
    latency_ms: float


def sampled_subnets(
    quality: StageQuality,
    lookup: LatencyLookup,
    space: Space,
    constraint_ms: float,
    count: int,
    rng: np.random.Generator,
) -> list[PredictedSubnet]:
    """`count` random subnets that meet a constraint, fewer where they are too rare; raises InvalidInput for none."""
    found: list[PredictedSubnet] = []
    for _ in range(ATTEMPTS):
        drawn = [quality.random_subnet(space, rng) for _ in range(DRAWN)]
        latency_ms = lookup.subnets_ms(space, encode_genes([subnet for subnet, _ in drawn]))
        found += [
            PredictedSubnet(subnet, nsr, float(ms))
            for (subnet, nsr), ms in zip(drawn, latency_ms, strict=True)
            if ms <= constraint_ms
        ]
        if len(found) >= count:
            break
    if not found:
        raise InvalidInput(
            f"None of {ATTEMPTS * DRAWN} random subnets of {space.encoding} takes {constraint_ms:g} ms or less.",
            "Raise the constraint.",
        )
    return found[:count]
