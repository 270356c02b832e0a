"""Evolution as an Optuna sampler: what is bred is a `Domain`'s business, how is this module's."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Params = dict[str, Any]
Identity = tuple[tuple[str, Any], ...]


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
    `litter` trials in a row have one parent. The random numbers of a trial depend on the seed and its number alone.
    No individual is proposed twice as long as new ones can be found.
    """

    ATTEMPTS = 50

    def __init__(self, domain: Domain, *, population: int, tournament: int, litter: int = 1, seed: int = 0) -> None:
        self.domain = domain
        self.population = population
        self.tournament = tournament
        self.litter = litter
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
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = {identity(t.params) for t in study.get_trials(deepcopy=False) if t.params}
        return self.propose(trial.number, finished, known)

    def propose(
        self,
        number: int,
        finished: Sequence[FrozenTrial],
        known: Container[Identity],
        stream: tuple[int, ...] = (),
    ) -> Params:
        """Parameters of individual `number`, given the finished trials, oldest first, and who is known already.

        `stream` sets workers apart that would otherwise propose the same.
        """
        rng = np.random.default_rng((self.seed, number, *stream))
        first = number - number % self.litter
        among = [trial for trial in finished[-self.population - self.litter :] if trial.number < first]
        parents = np.random.default_rng((self.seed, first, 1, *stream))
        params: Params = {}
        for attempt in range(self.ATTEMPTS):
            if len(among) < self.population:
                params = self.domain.initial(number, rng)
            elif attempt < self.ATTEMPTS // 5:
                params = self.domain.child(self.parent(among, parents), number, rng)
            else:  # the best parents have no new children left: grandchildren, and so on, of both kinds
                params = self.domain.child(params, number + attempt, rng)
            if identity(params) not in known:
                break
        return params

    def parent(self, finished: Sequence[FrozenTrial], rng: np.random.Generator) -> Params:
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


def identity(params: Params) -> Identity:
    """Hashable form: equal for equal individuals."""
    return tuple(sorted(params.items()))
