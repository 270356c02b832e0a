"""Studies of a supernet's subnets, kept in the database: begun, resumed and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...client import Client
from ...db import studies as queries
from ...db.engine import Database
from ...errors import InvalidInput
from ...kernels.skeleton import Format
from ...predictors.lookups.lookup import LatencyLookup
from ...predictors.targets import parse_target
from ...spaces.space import Subnet
from ..pictures.data import Pictures
from ..studies import delete_study, finished_trials, load_study
from ..training.evaluation import calibration_batches, recalibrate, top1
from ..training.supernet import Supernet
from .objectives import TOP1, Constraint, Goal, Metric, met, parse_goal
from .subnet_costs import SubnetCosts, reference_values
from .subnet_search import (
    Algorithm,
    EvaluatedSubnet,
    best_per_budget,
    evaluated_subnets,
    hypervolumes,
    make_sampler,
    pareto_front,
    search_subnets,
    spread,
)

OnProgress = Callable[[str, float, float], None]
"""(what is being done, done, total)."""

SHOWN = 3
"""Subnets of a front that are shown, or exported, where there are no budgets."""


@dataclass(frozen=True)
class SearchPlan:
    """What a study looks for and how, decided when it is begun.

    `target` is the canonical name of the target that `budgets_ms` are for; nothing slower than the largest is tried.
    """

    wanted: Goal
    target: str
    budgets_ms: tuple[float, ...] = ()
    algorithm: Algorithm = "evolution"

    @classmethod
    def within(cls, target: str, budgets_ms: Sequence[float], algorithm: Algorithm = "evolution") -> SearchPlan:
        """The usual one: accuracy against latency, within budgets."""
        return cls(Goal((TOP1, Metric("latency", target))), target, tuple(budgets_ms), algorithm)

    @property
    def latency(self) -> Metric | None:
        """The latency that budgets are for, or the first one that is asked for."""
        if self.budgets_ms:
            return Metric("latency", self.target)
        return next((metric for metric in self.wanted.metrics if metric.kind == "latency"), None)

    @cached_property
    def goal(self) -> Goal:
        """What is wanted, within the largest budget."""
        if self.latency is None or not self.budgets_ms:
            return self.wanted
        largest = Constraint(self.latency, "<=", max(self.budgets_ms))
        return Goal(self.wanted.objectives, (*self.wanted.constraints, largest))

    @property
    def config(self) -> dict[str, Any]:
        """JSON values that `from_config` reads."""
        return {
            "objectives": [str(metric) for metric in self.wanted.objectives],
            "constraints": [str(constraint) for constraint in self.wanted.constraints],
            "target": self.target,
            "budgets_ms": list(self.budgets_ms),
            "algorithm": self.algorithm,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SearchPlan:
        """Inverse of `config`; studies of earlier builds are evolutions of accuracy against latency."""
        objectives = config.get("objectives", [TOP1.kind, "latency"])
        goal = parse_goal(objectives, config.get("constraints", []), config["target"])
        return cls(goal, config["target"], tuple(config["budgets_ms"]), config.get("algorithm", "evolution"))


@dataclass(frozen=True)
class SearchResult:
    """What a study has found so far: all finished trials, oldest first, and the hypervolume after each one."""

    study: str
    plan: SearchPlan
    config: Mapping[str, Any]
    evaluated: Sequence[EvaluatedSubnet]
    hypervolumes: np.ndarray

    @property
    def found(self) -> list[EvaluatedSubnet]:
        """Those that meet the constraints."""
        return [each for each in self.evaluated if met(self.plan.goal.constraints, each.metrics)]

    @property
    def front(self) -> list[EvaluatedSubnet]:
        """Those of `found` that no other is at least as good as in every objective, the least accurate first."""
        return pareto_front(self.found, self.plan.goal)

    def best(self, count: int = 1) -> list[EvaluatedSubnet]:
        """The `count` best ones of each budget; without budgets `SHOWN` times as many, evenly from the front."""
        if self.plan.budgets_ms:
            return best_per_budget(self.found, self.plan.budgets_ms, count)
        return spread(self.front, SHOWN * count)


def find_subnets(
    database: Database,
    client: Client,
    plan: SearchPlan,
    supernet: Supernet,
    supernet_name: str,
    pictures: Pictures,
    study: str,
    *,
    evaluations: int,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
    stop: Callable[[int], bool] = lambda _: False,
) -> SearchResult:
    """Search the supernet's subnets by INT8 top-1 on the validation pictures and what else the plan asks for.

    A resumed study keeps the predictors that it was begun with: milliseconds of two versions are not comparable.
    Raises InvalidInput where the study was begun with another plan or other pictures.
    """
    space = supernet.space
    with database.session(read_only=True) as session:
        begun = queries.begun_predictors(session, study)
    lookups = {
        target: LatencyLookup(client.latency_table(space.encoding, begun.get(target, target)))
        for target in plan.goal.targets
    }
    file_format: Format = "tflite" if parse_target(plan.target).runtime == "litert" else "onnx"
    costs = SubnetCosts(space, lookups, supernet.classes, file_format)
    reference = reference_values(plan.goal, costs, 1 / supernet.classes)
    sampler = make_sampler(plan.algorithm, costs, plan.goal, plan.budgets_ms, plan.latency, seed)
    config = {**plan.config, "data": pictures.fingerprint}
    with database.session() as session:
        stored = queries.get_supernet(session, supernet_name)
        row = queries.get_or_create_study(
            session,
            study,
            kind="subnet",
            config={**config, "seed": seed, "reference": {str(metric): value for metric, value in reference.items()}},
            predictors=[lookup.table.predictor for lookup in lookups.values()],
            space_id=stored.space_id,
            supernet_id=stored.id,
        )
        _check_begun(study, row.kind, row.config, config, other_supernet=row.supernet_id != stored.id)
    calibration = calibration_batches(pictures)

    def accuracy(subnet: Subnet) -> float:
        return top1(supernet, subnet, recalibrate(supernet, subnet, calibration), pictures, "val")

    try:
        search_subnets(
            database.url,
            study,
            sampler,
            accuracy,
            evaluations=evaluations,
            on_trial=lambda done: on_progress("searching subnets", done, evaluations),
            stop=stop,
        )
    except InvalidInput:
        _forget_if_empty(database, study)
        raise
    return search_result(database, study)


def begun_budgets(database: Database, study: str) -> tuple[float, ...]:
    """The budgets, in ms, of a study of subnets; none where there is no such study yet."""
    with database.session(read_only=True) as session:
        row = queries.find_study(session, study)
        config = row.config if row is not None and row.kind == "subnet" else {}
    return tuple(config.get("budgets_ms", ()))


def _forget_if_empty(database: Database, study: str) -> None:
    """A plan that nothing meets keeps no name from a better one."""
    if finished_trials(load_study(database.url, study)):
        return
    delete_study(database.url, study)
    with database.session() as session:
        queries.forget_study(session, study)


def _check_begun(
    study: str, kind: str, begun: Mapping[str, Any], now: Mapping[str, Any], *, other_supernet: bool
) -> None:
    if kind != "subnet":
        raise InvalidInput(f"'{study}' is a study of spaces.", "Choose another name with --study.")
    before = {**SearchPlan.from_config(begun).config, "data": begun["data"]}
    changed = [name for name, value in now.items() if before[name] != value] + ["supernet"] * other_supernet
    if changed:
        raise InvalidInput(
            f"The study '{study}' was begun with other {' and '.join(changed)}.",
            "Give the same to resume it, or another name with --study.",
        )


def search_result(database: Database, study: str) -> SearchResult:
    """What a study of subnets has found; raises NotFound, or InvalidInput for a study of spaces."""
    with database.session(read_only=True) as session:
        row = queries.get_study(session, study)
        kind, config = row.kind, row.config
    if kind != "subnet":
        raise InvalidInput(f"'{study}' is a study of spaces.", "Name a study of subnets: milliseek show")
    plan, trials = SearchPlan.from_config(config), load_study(database.url, study)
    evaluated = evaluated_subnets(trials, plan.goal, plan.budgets_ms, plan.latency)
    told = config.get("reference") or _worst(plan.goal, evaluated)
    reference = {metric: float(told[str(metric)]) for metric in plan.goal.objectives if str(metric) in told}
    grown = hypervolumes(trials, plan.goal, reference) if reference else np.zeros(0)
    return SearchResult(study, plan, config, evaluated, grown)


def _worst(goal: Goal, evaluated: Sequence[EvaluatedSubnet]) -> dict[str, float]:
    """Reference of a study of an earlier build, which kept none."""
    if not evaluated:
        return {}
    return {
        str(metric): 0.0 if metric.maximised else max(each.metrics[metric] for each in evaluated)
        for metric in goal.objectives
    }


def chosen_subnets(database: Database, study: str, trial: int | None = None) -> list[EvaluatedSubnet]:
    """One trial of a subnet study, or its best ones, as `SearchResult.best`; raises NotFound or InvalidInput."""
    result = search_result(database, study)
    if trial is None:
        return result.best()
    if chosen := [each for each in result.evaluated if each.trial == trial]:
        return chosen
    raise InvalidInput(f"The study '{study}' has no finished trial {trial}.", "milliseek show STUDY lists its trials.")
