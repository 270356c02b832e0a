"""NSGA-II over subnets: Optuna's, with children that are subnets, meet the constraints and are new."""

from __future__ import annotations

from collections.abc import Container
from functools import partial

import numpy as np
from optuna.samplers import NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from ..design.evolution import Identity, Params
from .objectives import Goal
from .subnet_costs import SubnetCosts
from .subnet_sampler import SubnetSampler

POPULATION = 20
"""Fewer than Optuna's 50: a search evaluates a few hundred subnets, and needs generations."""


class NSGA2(SubnetSampler):
    """The first population has subnets of every size; later ones are children of the best (Deb et al., 2002).

    Generations and parents are kept in the study by Optuna. Its sampler is made anew for every proposal, because its
    random numbers would begin again wherever a study is resumed.
    """

    def __init__(self, costs: SubnetCosts, goal: Goal, *, population: int = POPULATION, seed: int = 0) -> None:
        super().__init__(costs, goal, seed)
        self.population = population

    def propose(self, study: Study, trial: FrozenTrial, place: int, known: Container[Identity]) -> Params:
        """A child of the trial's generation, or a subnet of any size in the first one."""
        rng = self.generator(place)
        draw = partial(self._child, study, trial, rng)
        return self.first_fitting(draw, known) or self.fallback(rng, known)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Every trial belongs to a generation, those that come with their parameters too."""
        NSGAIISampler(population_size=self.population).get_trial_generation(study, trial)

    def _child(self, study: Study, trial: FrozenTrial, rng: np.random.Generator) -> Params:
        sampler = NSGAIISampler(population_size=self.population, seed=int(rng.integers(2**32)))
        bred = sampler.sample_relative(study, trial, dict(self.domain.distributions))
        if not bred:  # there are no parents yet
            return self.domain.leaning(rng)
        return self.domain.canonical({**self.domain.random(rng), **bred})  # what is missing has mutated
