"""What all ways of proposing subnets share: a proposal depends on the study, the seed and the trial's place alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ...errors import InvalidInput
from ..design.evolution import Identity, Params, identity
from .objectives import Constraint, Goal, Metric
from .subnet_costs import SubnetCosts
from .subnet_domain import SubnetDomain

METRICS = "metrics"
"""Attribute of a trial: the values of all metrics by name."""


class SubnetSampler(BaseSampler, ABC):
    """Proposes subnets that meet every constraint that can be told without running them.

    A trial's place is its number less those of trials that were given up. The random numbers of a proposal depend on
    the seed and the place, its parents on the finished trials: a study that was interrupted, even by `kill -9`, goes on
    with the proposals of one that was not, and workers that share a study propose different subnets.
    """

    CHUNKS: Sequence[int] = (2, 8, 32, 128, 512)
    """Subnets drawn at a time until one fits."""

    def __init__(self, costs: SubnetCosts, goal: Goal, seed: int = 0) -> None:
        self.domain = SubnetDomain(costs.space)
        self.costs = costs
        self.goal = goal
        self.seed = seed

    @abstractmethod
    def propose(self, study: Study, trial: FrozenTrial, place: int, known: Container[Identity]) -> Params:
        """Parameters of a subnet for the trial, none of the `known` ones as long as there are others."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are drawn together."""
        return dict(self.domain.distributions)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """A proposal; a trial that was queued with its parameters, or some of them, keeps those."""
        trials = study.get_trials(deepcopy=False)
        known = {identity(t.params) for t in trials if t.params and t.state is not TrialState.FAIL}
        return self.propose(study, trial, place_of(trial, trials), known)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never asked: every parameter is drawn relatively."""
        raise AssertionError(f"{param_name} is not a parameter of this study")

    def generator(self, *place: int) -> np.random.Generator:
        """Random numbers of the seed and a place."""
        return np.random.default_rng((self.seed, *place))

    def fitting(self, candidates: Sequence[Params], more: Sequence[Constraint] = ()) -> list[Params]:
        """The candidates that meet the constraints, and `more` of them."""
        subnets = [self.domain.subnet(params) for params in candidates]
        return [candidates[i] for i in self.costs.fitting((*self.goal.cost_constraints, *more), subnets)]

    def first_fitting(
        self,
        draw: Callable[[], Params],
        known: Container[Identity],
        chunks: Sequence[int] = (),
        more: Sequence[Constraint] = (),
    ) -> Params | None:
        """The first of many draws that fits and is not known, if there is one."""
        for size in chunks or self.CHUNKS:
            for params in self.fitting([draw() for _ in range(size)], more):
                if identity(params) not in known:
                    return params
        return None

    def fallback(self, rng: np.random.Generator, known: Container[Identity]) -> Params:
        """Where a sampler's own draws do not fit: others of any size, near the smallest, or itself.

        Raises InvalidInput where not even they fit.
        """
        smallest = self.domain.smallest()
        for draw in (self.domain.leaning, partial(self.domain.mutated, smallest, share=0.1, resolution_share=0.1)):
            if found := self.first_fitting(partial(draw, rng=rng), known):
                return found
        if self.fitting([smallest]):
            return smallest
        raise InvalidInput(
            f"No subnet of {self.domain.space.encoding} was found that meets "
            f"{', '.join(map(str, self.goal.cost_constraints))}; its smallest has {self._shown(smallest)}.",
            "Loosen the constraints.",
        )

    def _shown(self, params: Params) -> str:
        values = self.costs.all_of(self.goal.costs, self.domain.subnet(params))
        return ", ".join(f"{metric} {metric.shown(value)}" for metric, value in values.items())


class RandomSubnets(SubnetSampler):
    """Uniformly drawn subnets that meet the constraints."""

    def propose(self, study: Study, trial: FrozenTrial, place: int, known: Container[Identity]) -> Params:
        """One of them."""
        rng = self.generator(place)
        return self.first_fitting(lambda: self.domain.random(rng), known) or self.fallback(rng, known)


def place_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """How many of `trials` come before `trial` and were not given up."""
    return sum(each.number < trial.number and each.state is not TrialState.FAIL for each in trials)


def metrics_of(trial: FrozenTrial, goal: Goal) -> dict[Metric, float]:
    """All values that a finished trial has of the goal's metrics."""
    stored = trial.user_attrs.get(METRICS, {})
    values = {metric: float(stored[str(metric)]) for metric in goal.metrics if str(metric) in stored}
    return {**values, **{m: float(v) for m, v in zip(goal.objectives, trial.values, strict=True)}}
