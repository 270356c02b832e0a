"""Subnets of a space by level of multiply-accumulates, from its smallest to its largest."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ...spaces.blocks import BlockChoice
from ...spaces.counting import count
from ...spaces.space import Space, Subnet, extreme_subnet

PAPER_SMALLEST = 37.4
PAPER_LEVELS = (100.0, 200.0, 300.0, 400.0, 500.0, 700.0, 900.0, 1200.0)
PAPER_MINIMA = (PAPER_SMALLEST, 159.9, 288.8)
"""ElasticViT's ladder and the smallest subnets that go with it, in MMACs."""

POOL = 2000
PER_LEVEL = 150
STRONGEST_BIAS = 4.0
LATE_STAGES = 0.5
"""Share of the stages, the last ones, whose width counts for `LevelTables.widths` (the paper: its ViT stages)."""

Option = TypeVar("Option", int, float)


@dataclass(frozen=True)
class LevelTables:
    """`levels`: the subnets of each level, ascending by MACs; `smallest`: the sandwich's smallest subnet of each.

    The ladder has the paper's rungs at their places on a logarithmic scale, with the space's own smallest subnet for
    the paper's 37.4 MMACs and its largest for the top level: in a space of the user's own the whole range is wanted.
    """

    levels: tuple[tuple[Subnet, ...], ...]
    smallest: tuple[Subnet, ...]

    @classmethod
    def build(cls, space: Space, seed: int) -> LevelTables:
        """For each level, those of a pool of subnets whose MACs are nearest to it on a logarithmic scale.

        Uniform draws crowd in the middle of the range, so each subnet of the pool leans towards small or large
        choices, more or less.
        """
        rng = np.random.default_rng((seed, 4))
        extremes = [extreme_subnet(space, largest=largest) for largest in (False, True)]
        drawn = [leaning_subnet(space, rng, rng.uniform(-STRONGEST_BIAS, STRONGEST_BIAS)) for _ in range(POOL)]
        subnets = list(dict.fromkeys((*extremes, *drawn)))
        sizes = np.log([count(subnet).macs for subnet in subnets])

        def nearest(level: float, number: int) -> tuple[Subnet, ...]:
            place = math.log(level / PAPER_SMALLEST) / math.log(PAPER_LEVELS[-1] / PAPER_SMALLEST)
            aim = sizes[0] + place * (sizes[1] - sizes[0])
            found = np.argsort(np.abs(sizes - aim), kind="stable")[:number]
            return tuple(subnets[i] for i in found[np.argsort(sizes[found], kind="stable")])

        minima = [nearest(minimum, 1)[0] for minimum in PAPER_MINIMA]
        below = [max(i for i, minimum in enumerate(PAPER_MINIMA) if minimum <= level) for level in PAPER_LEVELS]
        return cls(tuple(nearest(level, PER_LEVEL) for level in PAPER_LEVELS), tuple(minima[i] for i in below))

    @cached_property
    def widths(self) -> tuple[tuple[float, ...], ...]:
        """How much each subnet's MACs sit in the width of the late stages rather than in their depth: MACs a block."""
        return tuple(tuple(map(_late_macs_per_block, table)) for table in self.levels)

    def state(self) -> dict[str, Any]:
        """Plain values for `from_state`."""
        return {
            "levels": [[subnet.genome for subnet in table] for table in self.levels],
            "smallest": [subnet.genome for subnet in self.smallest],
        }

    @classmethod
    def from_state(cls, space: Space, state: dict[str, Any]) -> LevelTables:
        """Inverse of `state`."""

        def decoded(genomes: Sequence[str]) -> tuple[Subnet, ...]:
            return tuple(Subnet.decode(f"{space.encoding}:{genome}") for genome in genomes)

        return cls(tuple(map(decoded, state["levels"])), decoded(state["smallest"]))


def leaning_subnet(space: Space, rng: np.random.Generator, bias: float) -> Subnet:
    """A random subnet that leans towards large choices (`bias` > 0) or small ones; 0 is uniform choice by choice.

    Of a list of ascending choices the first has the weight exp(-bias), the last exp(bias).
    """

    edges: dict[int, list[float]] = {}

    def pick(options: Sequence[Option]) -> Option:
        size = len(options)
        if size not in edges:
            weights = np.exp(bias * np.linspace(-1, 1, size))
            edges[size] = (np.cumsum(weights) / weights.sum()).tolist()
        return options[min(bisect(edges[size], rng.random()), size - 1)]

    hyperspace = space.hyperspace
    stages = []
    for s, stage in enumerate(hyperspace.stages):
        block, widths = space.stage_type(s), space.stage_widths(s)
        choices = range(pick(stage.depths))
        stages.append(tuple(BlockChoice(pick(widths), pick(block.kernels), pick(block.expands)) for _ in choices))
    return Subnet(space, pick(hyperspace.resolutions), pick(hyperspace.stem_widths), tuple(stages))


def _late_macs_per_block(subnet: Subnet) -> float:
    first = round(len(subnet.stages) * LATE_STAGES)
    late = tuple(f"s{s}." for s in range(first, len(subnet.stages)))
    network = subnet.network(subnet.space.hyperspace.nominal_classes)
    macs = sum(layer.macs for layer in network.layers if layer.name.startswith(late))
    return macs / sum(map(len, subnet.stages[first:]))
