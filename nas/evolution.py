"""Evolution as an Optuna sampler: what is bred is a `Domain`'s business, how is this module's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Params = dict[str, Any]


class Domain(Protocol):
    """Something that can be bred: its parameters, random individuals, children."""

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """The parameters of an individual."""
        ...

    def initial(self, number: int, rng: np.random.Generator) -> Params:
        """Individual `number` of the first population."""
        ...

    def child(self, parent: Params, number: int, rng: np.random.Generator) -> Params:
        """A mutated copy; `number` is the trial's, for domains that alternate between kinds of mutation."""
        ...


class AgingEvolution(BaseSampler):
    """Aging evolution: the parent is the best of a random tournament among the youngest `population` trials.

    Real et al., 2019, as SpaceEvo uses it (population 500, tournament 125). The state is the study itself: trials
    that are finished are the population, so a resumed study goes on where it was and parallel workers share one.
    The random numbers of a trial depend on the seed and its number alone. No individual is proposed twice as long
    as new ones can be found.
    """

    ATTEMPTS = 50

    def __init__(self, domain: Domain, *, population: int, tournament: int, seed: int = 0) -> None:
        self.domain = domain
        self.population = population
        self.tournament = tournament
        self.seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are drawn together."""
        return dict(self.domain.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters of a new individual, or none where the trial was enqueued with its own."""
        if not search_space or "fixed_params" in trial.system_attrs:
            return {}
        rng = np.random.default_rng((self.seed, trial.number))
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = {identity(t.params) for t in study.get_trials(deepcopy=False) if t.params}
        params: Params = {}
        for _ in range(self.ATTEMPTS):
            if len(finished) < self.population:
                params = self.domain.initial(trial.number, rng)
            else:
                params = self.domain.child(self.parent(study, finished, trial.number, rng), trial.number, rng)
            if identity(params) not in known:
                break
        return params

    def parent(
        self,
        study: Study,
        finished: list[FrozenTrial],
        number: int,
        rng: np.random.Generator,
    ) -> Params:
        """The best of a random tournament among the youngest."""
        young = finished[-self.population :]
        picked = rng.choice(len(young), min(self.tournament, len(young)), replace=False)
        best = max((young[i] for i in picked), key=lambda t: float(t.values[0]))
        return dict(best.params)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never asked: every parameter is drawn relatively."""
        raise AssertionError(f"{param_name} is not a parameter of this study")


def identity(params: Params) -> tuple[tuple[str, Any], ...]:
    """Hashable form: equal for equal individuals."""
    return tuple(sorted(params.items()))
