"""Subnet search: a supernet's best INT8 networks, by any objectives under any constraints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from optuna.study import Study

from ...errors import InvalidInput
from ...spaces.space import Subnet
from ..design.evolution import Params
from ..studies import Outcome, finished_trials, open_study, run_trials
from .budget_evolution import BudgetEvolution
from .guided_search import GuidedSearch
from .hypervolume import growth, nondominated_indices
from .nsga2 import NSGA2
from .objectives import TOP1, Goal, Metric, Values, met
from .subnet_costs import SubnetCosts
from .subnet_sampler import METRICS, RandomSubnets, SubnetSampler, metrics_of

Algorithm = Literal["evolution", "nsga2", "guided", "random"]


@dataclass(frozen=True)
class EvaluatedSubnet:
    """A subnet that a study has evaluated: INT8 top-1 on the search pictures, predicted milliseconds, all metrics.

    `latency_ms` and `budget_ms` are None in a search that does not ask for the latency.
    """

    subnet: Subnet
    trial: int
    top1: float
    latency_ms: float | None
    budget_ms: float | None
    metrics: Values = field(default_factory=dict)


def make_sampler(
    algorithm: Algorithm,
    costs: SubnetCosts,
    goal: Goal,
    budgets_ms: Sequence[float] = (),
    latency: Metric | None = None,
    seed: int = 0,
) -> SubnetSampler:
    """The sampler of that name; `evolution` needs budgets, milliseconds of `latency`, else it raises InvalidInput."""
    if algorithm == "nsga2":
        return NSGA2(costs, goal, seed=seed)
    if algorithm == "guided":
        return GuidedSearch(costs, goal, seed=seed)
    if algorithm == "random":
        return RandomSubnets(costs, goal, seed)
    if not budgets_ms or latency is None or TOP1 not in goal.objectives:
        raise InvalidInput(
            "Evolution looks for the best top1 within latency budgets.",
            "Use the objectives top1 and latency, or another algorithm: guided, nsga2.",
        )
    return BudgetEvolution(costs, goal, latency, budgets_ms, seed=seed)


def search_subnets(
    url: str,
    name: str,
    sampler: SubnetSampler,
    top1: Callable[[Subnet], float],
    *,
    evaluations: int,
    on_trial: Callable[[int], None] = lambda _: None,
    stop: Callable[[int], bool] = lambda _: False,
) -> Study:
    """Run or resume the study `name` up to `evaluations` subnets, those of other workers included."""
    goal, domain = sampler.goal, sampler.domain
    study = open_study(url, name, goal.directions, sampler)

    def evaluate(params: Params) -> Outcome:
        subnet = domain.subnet(params)
        values = {TOP1: top1(subnet), **sampler.costs.all_of(goal.costs, subnet)}
        return Outcome(
            [values[metric] for metric in goal.objectives],
            {"subnet": subnet.encoding, METRICS: {str(metric): value for metric, value in values.items()}},
            {str(each): each.violation(values[each.metric]) for each in goal.constraints},
        )

    run_trials(study, domain.distributions, evaluate, evaluations, on_trial, stop)
    return study


def evaluated_subnets(
    study: Study, goal: Goal, budgets_ms: Sequence[float] = (), latency: Metric | None = None
) -> list[EvaluatedSubnet]:
    """Every finished trial, oldest first, whether it meets the constraints or not.

    Each with the smallest budget, milliseconds of the metric `latency`, that it meets (the largest if it meets none).
    """
    found = []
    for trial in finished_trials(study):
        values = metrics_of(trial, goal)
        latency_ms = values[latency] if latency is not None else None
        budget_ms = None
        if latency_ms is not None and budgets_ms:
            budget_ms = min((b for b in budgets_ms if latency_ms <= b), default=max(budgets_ms))
        subnet = Subnet.decode(trial.user_attrs["subnet"])
        found.append(EvaluatedSubnet(subnet, trial.number, values[TOP1], latency_ms, budget_ms, values))
    return found


def best_per_budget(
    found: Sequence[EvaluatedSubnet], budgets_ms: Sequence[float], count: int = 1
) -> list[EvaluatedSubnet]:
    """For each budget, ascending, the `count` subnets with the best top-1 among those proposed for it.

    Of equal ones the faster. Where none was proposed, because the space has none that slow, they are the best ones that
    no smaller budget has taken.
    """
    chosen: list[EvaluatedSubnet] = []
    for budget_ms in sorted(budgets_ms):
        taken = {e.trial for e in chosen}
        fitting = [e for e in found if _ms(e) <= budget_ms and e.trial not in taken]
        candidates = [e for e in fitting if e.budget_ms == budget_ms] or fitting
        ranked = sorted(candidates, key=lambda e: (-e.top1, _ms(e), e.trial))
        chosen += [replace(best, budget_ms=budget_ms) for best in ranked[:count]]
    return chosen


def pareto_front(found: Sequence[EvaluatedSubnet], goal: Goal) -> list[EvaluatedSubnet]:
    """Those that no other is at least as good as in every objective, the least accurate first."""
    if not found:
        return []
    front = nondominated_indices(np.array([goal.losses(e.metrics) for e in found]))
    return sorted((found[i] for i in front), key=lambda e: (e.top1, e.trial))


def spread(front: Sequence[EvaluatedSubnet], count: int) -> list[EvaluatedSubnet]:
    """At most `count` of a front, both ends and evenly between them."""
    places = np.linspace(0, len(front) - 1, min(count, len(front)))
    return [front[i] for i in dict.fromkeys(np.rint(places).astype(int).tolist())]


def hypervolumes(study: Study, goal: Goal, reference: Mapping[Metric, float]) -> np.ndarray:
    """Hypervolume (finished trials,) after each one, as a share of what lies between `reference` and a perfect subnet.

    A perfect one has top-1 1 and costs nothing. Trials that miss a constraint dominate nothing.
    """
    limit = np.array(goal.losses(reference))
    perfect = np.array([-1.0 if metric.maximised else 0.0 for metric in goal.objectives])
    points = []
    for trial in finished_trials(study):
        values = metrics_of(trial, goal)
        points.append(goal.losses(values) if met(goal.constraints, values) else limit.tolist())
    return growth(points, limit.tolist()) / float(np.prod(limit - perfect))


def _ms(evaluated: EvaluatedSubnet) -> float:
    return np.inf if evaluated.latency_ms is None else evaluated.latency_ms
