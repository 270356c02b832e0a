"""Subnets of one space as Optuna's parameters, and how new ones are drawn and bred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from ...spaces.blocks import BlockChoice
from ...spaces.space import Space, Subnet, extreme_subnet
from ..design.evolution import Params

MUTATION = 0.3
RESOLUTION_MUTATION = 0.5
"""Probability that a gene, or the resolution, is drawn anew (SpaceEvo, section 4.1)."""


class SubnetDomain:
    """Subnets of one space as Optuna parameters; genes of absent blocks keep their smallest value."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._smallest = extreme_subnet(space, largest=False)

    @cached_property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """`resolution`, `stem`, and for stage s and block b: `s.depth`, `s.b.width`, `s.b.kernel`, `s.b.expand`."""
        return {name: CategoricalDistribution(values) for name, values in self.choices.items()}

    @cached_property
    def choices(self) -> Mapping[str, Sequence[float]]:
        """Values of every parameter, ascending."""
        hyperspace = self.space.hyperspace
        choices: dict[str, Sequence[float]] = {
            "resolution": hyperspace.resolutions,
            "stem": hyperspace.stem_widths,
        }
        for s, stage in enumerate(hyperspace.stages):
            block_type = self.space.stage_type(s)
            choices[f"{s}.depth"] = stage.depths
            for b in range(max(stage.depths)):
                choices[f"{s}.{b}.width"] = self.space.stage_widths(s)
                choices[f"{s}.{b}.kernel"] = block_type.kernels
                choices[f"{s}.{b}.expand"] = block_type.expands
        return {name: tuple(sorted(values)) for name, values in choices.items()}

    def params(self, subnet: Subnet) -> Params:
        """Inverse of `subnet`."""
        params: Params = {"resolution": subnet.resolution, "stem": subnet.stem_width}
        for s, blocks in enumerate(subnet.stages):
            params[f"{s}.depth"] = len(blocks)
            smallest = self._smallest.stages[s][0]
            for b in range(max(self.space.hyperspace.stages[s].depths)):
                choice = blocks[b] if b < len(blocks) else smallest
                for field, value in choice._asdict().items():
                    params[f"{s}.{b}.{field}"] = value
        return params

    def subnet(self, params: Params) -> Subnet:
        """The subnet that parameters name."""
        stages = tuple(
            tuple(
                BlockChoice(
                    int(params[f"{s}.{b}.width"]),
                    int(params[f"{s}.{b}.kernel"]),
                    float(params[f"{s}.{b}.expand"]),
                )
                for b in range(int(params[f"{s}.depth"]))
            )
            for s in range(len(self.space.hyperspace.stages))
        )
        return Subnet(self.space, int(params["resolution"]), int(params["stem"]), stages)

    def canonical(self, params: Params) -> Params:
        """Equal for equal subnets, whatever stands in absent blocks."""
        return self.params(self.subnet(params))

    def smallest(self) -> Params:
        """Every choice at its minimum."""
        return self.params(self._smallest)

    def random(self, rng: np.random.Generator) -> Params:
        """Drawn uniformly choice by choice: nearly all such subnets are of middling size."""
        return self._at(rng.integers(self._counts))

    def leaning(self, rng: np.random.Generator) -> Params:
        """Drawn choice by choice with one lean towards small or large for all of them, itself drawn uniformly.

        Every choice is as likely as in `random`, but such subnets are of every size, the smallest and largest included.
        """
        return self._at(rng.binomial(self._counts - 1, rng.random()))

    def mutated(
        self,
        params: Params,
        rng: np.random.Generator,
        share: float = MUTATION,
        resolution_share: float = RESOLUTION_MUTATION,
    ) -> Params:
        """Each gene drawn anew with its probability."""
        drawn = zip(self.choices.items(), rng.random(len(self.choices)), rng.integers(self._counts), strict=True)
        changed = {
            name: values[i] if luck < (resolution_share if name == "resolution" else share) else params[name]
            for (name, values), luck, i in drawn
        }
        return self.canonical(changed)

    def crossed(self, a: Params, b: Params, rng: np.random.Generator) -> Params:
        """Each gene from either parent."""
        first = rng.random(len(self.choices)) < 0.5
        return self.canonical({name: (a if one else b)[name] for name, one in zip(self.choices, first, strict=True)})

    def _at(self, places: np.ndarray) -> Params:
        """The individual whose parameters have these places (parameters,) among their choices."""
        chosen = zip(self.choices.items(), places.tolist(), strict=True)
        return self.canonical({name: values[i] for (name, values), i in chosen})

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.array([len(values) for values in self.choices.values()])
