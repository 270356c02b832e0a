"""Search guided by an accuracy predictor: what has been evaluated says which subnets to evaluate next."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..design.evolution import Identity, Params, identity
from .accuracy_predictor import AccuracyPredictor
from .hypervolume import gain, nondominated, nondominated_indices
from .objectives import TOP1, Goal, met
from .subnet_costs import SubnetCosts, reference_values
from .subnet_sampler import SubnetSampler, metrics_of, place_of

BATCH = 8
WARM_UP = 16
"""Subnets of every size that the first predictor is fitted on: whole batches."""
POOL = 128
"""Candidates that join in each round of breeding."""
ROUNDS = 4
IMMIGRATION = 0.2
"""Share of candidates that are no children."""
CHANGES = 3
"""Genes of a child that are drawn anew, on average."""
OPTIMISM = 0.5
"""Standard deviations of a prediction that are added to it: what is little known may be good."""


class GuidedSearch(SubnetSampler):
    """Proposes batches of subnets that the predictor expects to add most to the hypervolume.

    The first `WARM_UP` subnets are of every size. Then, for every batch, a predictor is fitted on what earlier batches
    have found out; candidates are bred for a few rounds from the front, evaluated and predicted; and a batch is chosen
    from them one by one, each as if those before it had their predicted accuracy. Costs need no prediction.
    """

    def __init__(self, costs: SubnetCosts, goal: Goal, *, seed: int = 0) -> None:
        super().__init__(costs, goal, seed)
        self._batch: tuple[int, list[Params]] = (-1, [])

    def propose(self, study: Study, trial: FrozenTrial, place: int, known: Container[Identity]) -> Params:
        """The subnet of this place in its batch."""
        first = place - place % BATCH
        if first >= WARM_UP:
            if self._batch[0] != first:
                self._batch = first, self._planned(study, first)
            for params in (*self._batch[1][place - first :], *self._batch[1]):
                if identity(params) not in known:
                    return params
        rng = self.generator(place)
        return self.first_fitting(lambda: self.domain.leaning(rng), known) or self.fallback(rng, known)

    def _planned(self, study: Study, first: int) -> list[Params]:
        """The batch that begins at place `first`, from the finished trials of earlier places."""
        trials = study.get_trials(deepcopy=False)
        earlier = [t for t in trials if t.state is not TrialState.FAIL and place_of(t, trials) < first]
        finished = [trial for trial in earlier if trial.state is TrialState.COMPLETE]
        known = {identity(trial.params) for trial in earlier}
        if len(finished) < 2:
            return []
        values = [metrics_of(trial, self.goal) for trial in finished]
        subnets = [self.domain.subnet(trial.params) for trial in finished]
        predictor = AccuracyPredictor(subnets, [each[TOP1] for each in values], self.seed)
        rng = self.generator(first, 1)
        evaluated = [
            (dict(trial.params), self.goal.losses(each))
            for trial, each in zip(finished, values, strict=True)
            if met(self.goal.constraints, each)
        ]
        pool: dict[Identity, _Candidate] = {}
        for _ in range(ROUNDS):
            ranked = [*evaluated, *((each.params, each.hoped) for each in pool.values())]
            parents = [ranked[i][0] for i in nondominated_indices(_array([losses for _, losses in ranked], self.goal))]
            new = {identity(params): params for params in self.fitting([self._bred(parents, rng) for _ in range(POOL)])}
            fresh = [params for key, params in new.items() if key not in known and key not in pool]
            pool |= {identity(each.params): each for each in self._judged(fresh, predictor)}
        return self._chosen(list(pool.values()), nondominated(_array([losses for _, losses in evaluated], self.goal)))

    def _bred(self, parents: Sequence[Params], rng: np.random.Generator) -> Params:
        """A child with a few changes; now and then somebody from elsewhere."""
        if not parents or rng.random() < IMMIGRATION:
            return self.domain.leaning(rng)
        child = parents[int(rng.integers(len(parents)))]
        if rng.random() < 0.5:
            child = self.domain.crossed(child, parents[int(rng.integers(len(parents)))], rng)
        return self.domain.mutated(child, rng, CHANGES / len(child), CHANGES / len(child))

    def _judged(self, candidates: Sequence[Params], predictor: AccuracyPredictor) -> list[_Candidate]:
        if not candidates:
            return []
        subnets = [self.domain.subnet(params) for params in candidates]
        costs = {metric: self.costs.of(metric, subnets) for metric in self.goal.costs}
        judged = []
        for i, (mean, deviation) in enumerate(zip(*predictor(subnets), strict=True)):
            expected = {TOP1: float(mean), **{metric: float(values[i]) for metric, values in costs.items()}}
            hoped = {**expected, TOP1: float(mean + OPTIMISM * deviation)}
            chance = self._chance(float(mean), float(deviation))
            judged.append(_Candidate(candidates[i], self.goal.losses(expected), self.goal.losses(hoped), chance))
        return judged

    def _chance(self, mean: float, deviation: float) -> float:
        """Probability that the constraints on top-1 are met."""
        chance = 1.0
        for constraint in self.goal.constraints:
            if constraint.metric == TOP1:
                below = 0.5 * (1 + math.erf((constraint.bound - mean) / (math.sqrt(2) * max(deviation, 1e-9))))
                chance *= below if constraint.relation == "<=" else 1 - below
        return chance

    def _chosen(self, pool: Sequence[_Candidate], front: np.ndarray) -> list[Params]:
        """The batch, most promising first.

        What somebody promises only shrinks as the front grows, so few have to be judged again for every choice.
        """
        reference = np.array(self.goal.losses(reference_values(self.goal, self.costs)))

        def promise(candidate: _Candidate) -> float:
            return candidate.chance * gain(np.array(candidate.hoped), front, reference)

        ranked = [(-promise(candidate), -candidate.chance, i, 0) for i, candidate in enumerate(pool)]
        heapq.heapify(ranked)
        chosen: list[Params] = []
        while ranked and len(chosen) < BATCH:
            _, unlikely, i, judged_at = heapq.heappop(ranked)
            if judged_at < len(chosen):
                heapq.heappush(ranked, (-promise(pool[i]), unlikely, i, len(chosen)))
                continue
            chosen.append(pool[i].params)
            front = nondominated(np.vstack([front, pool[i].expected]))
        return chosen


@dataclass(frozen=True)
class _Candidate:
    """`expected`, `hoped`: values of the objectives, less is better; `chance` that constraints on top-1 are met."""

    params: Params
    expected: list[float]
    hoped: list[float]
    chance: float


def _array(losses: Sequence[Sequence[float]], goal: Goal) -> np.ndarray:
    return np.array(losses, float).reshape(-1, len(goal.objectives))
