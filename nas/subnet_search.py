"""Subnet search: the most accurate INT8 networks of a supernet under each latency budget (SpaceEvo, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..errors import InvalidInput
from ..predictors.lookup import LatencyLookup
from ..spaces.blocks import BlockChoice
from ..spaces.codes import encode_genes
from ..spaces.space import Space, Subnet, extreme_subnet, random_subnet
from .evolution import Params, identity
from .studies import Outcome, finished_trials, open_study, run_trials

WINDOW = 0.85
"""A candidate for budget c has a predicted latency in [WINDOW * c, c]: slower is better as long as it fits."""
MUTATION = 0.3
RESOLUTION_MUTATION = 0.5
"""Probability that a gene, or the resolution, is drawn anew (SpaceEvo, section 4.1)."""


@dataclass(frozen=True)
class EvaluatedSubnet:
    """A subnet that a study has evaluated: INT8 top-1 on the search pictures and predicted milliseconds."""

    subnet: Subnet
    trial: int
    top1: float
    latency_ms: float
    budget_ms: float


class SubnetDomain:
    """Subnets of one space as Optuna parameters; genes of absent blocks keep their smallest value."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._smallest = extreme_subnet(space, largest=False)

    @cached_property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """`resolution`, `stem`, and for stage s and block b: `s.depth`, `s.b.width`, `s.b.kernel`, `s.b.expand`."""
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
        return {name: CategoricalDistribution(tuple(values)) for name, values in choices.items()}

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

    def mutated(self, params: Params, rng: np.random.Generator) -> Params:
        """Each gene drawn anew with its probability."""
        changed = dict(params)
        for name, distribution in self.distributions.items():
            assert isinstance(distribution, CategoricalDistribution)
            if rng.random() < (RESOLUTION_MUTATION if name == "resolution" else MUTATION):
                changed[name] = distribution.choices[rng.integers(len(distribution.choices))]
        return self.params(self.subnet(changed))

    def crossed(self, a: Params, b: Params, rng: np.random.Generator) -> Params:
        """Each gene from either parent."""
        mixed = {name: (a if rng.random() < 0.5 else b)[name] for name in self.distributions}
        return self.params(self.subnet(mixed))


class BudgetEvolution(BaseSampler):
    """Proposes, in turn for every budget, a subnet whose predicted latency just fits it.

    The first `warm_up` proposals of a budget are random subnets of its latency window; later ones are mutations
    and crossovers of the best so far. Candidates are drawn by the hundred, filtered by the latency table, and one
    that fits is taken. The state is the study: a resumed study goes on where it was.
    """

    DRAWS = 256
    ROUNDS = 20
    ELITE = 5

    def __init__(
        self,
        domain: SubnetDomain,
        latency: LatencyLookup,
        budgets_ms: Sequence[float],
        *,
        warm_up: int,
        seed: int = 0,
    ) -> None:
        self.domain = domain
        self.latency = latency
        self.budgets_ms = tuple(budgets_ms)
        self.warm_up = warm_up
        self.seed = seed

    def budget_of(self, number: int) -> float:
        """Milliseconds that trial `number` is proposed for."""
        return self.budgets_ms[number % len(self.budgets_ms)]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are drawn together."""
        return dict(self.domain.distributions)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """Parameters of a subnet that fits the trial's budget, or none where the trial was enqueued with its own."""
        if not search_space or "fixed_params" in trial.system_attrs:
            return {}
        rng = np.random.default_rng((self.seed, trial.number))
        budget_ms = self.budget_of(trial.number)
        window_ms = (WINDOW * budget_ms, budget_ms)
        known = {identity(t.params) for t in study.get_trials(deepcopy=False) if t.params}
        fitting = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if window_ms[0] <= t.values[1] <= window_ms[1]
        ]
        elite = sorted(fitting, key=lambda t: -float(t.values[0]))[: self.ELITE]
        for round_ in range(self.ROUNDS):
            # After a fruitless round with the elite's children, fall back to fresh blood.
            breed = len(fitting) >= self.warm_up and elite and round_ < self.ROUNDS // 2
            candidates = [self._candidate(elite if breed else [], rng) for _ in range(self.DRAWS)]
            genes = encode_genes([self.domain.subnet(params) for params in candidates])
            latency_ms = self.latency.subnets_ms(self.domain.space, genes)
            for params, ms in zip(candidates, latency_ms, strict=True):
                if window_ms[0] <= ms <= window_ms[1] and identity(params) not in known:
                    return params
        return self._nearest(budget_ms, rng)

    def _candidate(self, elite: list[FrozenTrial], rng: np.random.Generator) -> Params:
        if not elite:
            return self.domain.params(random_subnet(self.domain.space, rng))
        parent = dict(elite[rng.integers(len(elite))].params)
        if len(elite) > 1 and rng.random() < 0.5:
            return self.domain.crossed(parent, dict(elite[rng.integers(len(elite))].params), rng)
        return self.domain.mutated(parent, rng)

    def _nearest(self, budget_ms: float, rng: np.random.Generator) -> Params:
        """The slowest of many random subnets, and the smallest one, that fits at all."""
        smallest = extreme_subnet(self.domain.space, largest=False)
        subnets = [smallest, *(random_subnet(self.domain.space, rng) for _ in range(self.DRAWS))]
        latency_ms = self.latency.subnets_ms(self.domain.space, encode_genes(subnets))
        fits = np.flatnonzero(latency_ms <= budget_ms)
        if not len(fits):
            raise InvalidInput(
                f"No subnet of {self.domain.space.encoding} meets {budget_ms:.3g} ms on {self.latency.table.target}: "
                f"its fastest needs {float(latency_ms.min()):.3g} ms.",
                "Raise the budget.",
            )
        return self.domain.params(subnets[fits[np.argmax(latency_ms[fits])]])

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> object:
        """Never asked: every parameter is drawn relatively."""
        raise AssertionError(f"{param_name} is not a parameter of this study")


def search_subnets(
    url: str,
    name: str,
    space: Space,
    latency: LatencyLookup,
    budgets_ms: Sequence[float],
    top1: Callable[[Subnet], float],
    *,
    evaluations: int,
    warm_up: int = 4,
    seed: int = 0,
    on_trial: Callable[[int], None] = lambda _: None,
    stop: Callable[[int], bool] = lambda _: False,
) -> list[EvaluatedSubnet]:
    """Run or resume the study `name` (maximise `top1`, minimise predicted ms) up to `evaluations` subnets."""
    domain = SubnetDomain(space)
    sampler = BudgetEvolution(domain, latency, budgets_ms, warm_up=warm_up, seed=seed)
    study = open_study(url, name, ["maximize", "minimize"], sampler)

    def evaluate(params: Params) -> Outcome:
        subnet = domain.subnet(params)
        latency_ms = float(latency.subnets_ms(space, encode_genes([subnet]))[0])
        return Outcome([top1(subnet), latency_ms], {"subnet": subnet.encoding})

    run_trials(study, domain.distributions, evaluate, evaluations, on_trial, stop)
    return evaluated_subnets(study, budgets_ms)


def evaluated_subnets(study: Study, budgets_ms: Sequence[float]) -> list[EvaluatedSubnet]:
    """Every finished trial with the smallest budget that it meets (the largest budget if it meets none)."""
    found = []
    for trial in finished_trials(study):
        top1, latency_ms = map(float, trial.values)
        budget_ms = min((b for b in budgets_ms if latency_ms <= b), default=max(budgets_ms))
        subnet = Subnet.decode(trial.user_attrs["subnet"])
        found.append(EvaluatedSubnet(subnet, trial.number, top1, latency_ms, budget_ms))
    return found


def best_per_budget(found: Sequence[EvaluatedSubnet], budgets_ms: Sequence[float]) -> list[EvaluatedSubnet]:
    """For each budget, ascending, the subnet with the best top-1 among those proposed for it (ties: the faster).

    Where none was, because the space has none that slow, it is the best one that no smaller budget has taken.
    """
    chosen: list[EvaluatedSubnet] = []
    for budget_ms in sorted(budgets_ms):
        taken = {e.trial for e in chosen}
        fitting = [e for e in found if e.latency_ms <= budget_ms and e.trial not in taken]
        candidates = [e for e in fitting if e.budget_ms == budget_ms] or fitting
        if candidates:
            best = max(candidates, key=lambda e: (e.top1, -e.latency_ms))
            chosen.append(replace(best, budget_ms=budget_ms))
    return chosen
