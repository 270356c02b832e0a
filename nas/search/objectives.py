"""What a search of subnets is after: metrics to be optimised, and bounds on metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ...errors import InvalidInput
from ...predictors.targets import parse_target

MetricKind = Literal["top1", "latency", "macs", "params", "size", "memory"]
Relation = Literal["<=", ">="]

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "kib": 1024.0, "mib": 1024.0**2}
UNITS: Mapping[MetricKind, Mapping[str, float]] = {
    "top1": {"": 1.0, "%": 0.01},
    "latency": {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3},
    "macs": COUNTS,
    "params": COUNTS,
    "size": BYTES,
    "memory": BYTES,
}
"""Units of bounds, and what they are in a metric's own: a share, milliseconds, a number, bytes."""

_CONSTRAINT = re.compile(
    r"\s*(?P<metric>[^<>=\s]+)\s*(?P<relation><=|>=)\s*(?P<bound>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(?P<unit>[A-Za-z%]*)\s*"
)


@dataclass(frozen=True)
class Metric:
    """Something that every subnet has a value of; all but `top1` are known without running it.

    `top1`: share of the search pictures that the INT8 network gets right; `latency`: predicted milliseconds on
    `target`; `macs`, `params`: as `milliseek spaces count` says; `size`: bytes of the INT8 file; `memory`: peak bytes
    of INT8 activations.
    """

    kind: MetricKind
    target: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}" if self.target else self.kind

    @property
    def maximised(self) -> bool:
        """Whether more is better."""
        return self.kind == "top1"

    def shown(self, value: float) -> str:
        """A value with its unit, three digits."""
        if self.kind == "top1":
            return f"{100 * value:.1f} %"
        if self.kind == "latency":
            return f"{value:.3g} ms"
        unit = "B" if self.kind in ("size", "memory") else ""
        for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if value >= factor:
                return f"{value / factor:.3g} {prefix}{unit}"
        return f"{value:.0f} {unit}".strip()


TOP1 = Metric("top1")
Values = Mapping[Metric, float]
"""What is known of one subnet, each in its metric's own unit."""


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric, in the metric's own unit."""

    metric: Metric
    relation: Relation
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.bound!r}"

    def violation(self, value: float) -> float:
        """How far a value is beyond the bound, as a share of it; 0 or less where it is met."""
        beyond = value - self.bound if self.relation == "<=" else self.bound - value
        return beyond / (self.bound or 1.0)


@dataclass(frozen=True)
class Goal:
    """Objectives, each to be optimised, and constraints that all have to be met."""

    objectives: tuple[Metric, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.objectives)) < len(self.objectives):
            raise InvalidInput("An objective is given twice.", "Name each one once.")
        if not self.objectives or TOP1 not in self.metrics:
            raise InvalidInput(
                "Nothing says how good the networks shall be.",
                "Add --objective top1, or a bound such as --constraint 'top1>=90%'.",
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All that are asked for, each once."""
        return tuple(dict.fromkeys((*self.objectives, *(each.metric for each in self.constraints))))

    @property
    def costs(self) -> tuple[Metric, ...]:
        """Those that are known without running a subnet."""
        return tuple(metric for metric in self.metrics if metric != TOP1)

    @property
    def cost_constraints(self) -> tuple[Constraint, ...]:
        """Those that can be told without running a subnet."""
        return tuple(each for each in self.constraints if each.metric != TOP1)

    @property
    def directions(self) -> list[str]:
        """Of the objectives, as Optuna names them."""
        return ["maximize" if metric.maximised else "minimize" for metric in self.objectives]

    @property
    def targets(self) -> tuple[str, ...]:
        """Canonical names of the targets whose latency is asked for."""
        return tuple(metric.target for metric in self.metrics if metric.kind == "latency")

    def upper_bound(self, metric: Metric) -> float:
        """The tightest one, infinity without any."""
        return min((c.bound for c in self.constraints if (c.metric, c.relation) == (metric, "<=")), default=math.inf)

    def losses(self, values: Values) -> list[float]:
        """Values of the objectives, turned so that less is better."""
        return [-values[metric] if metric.maximised else values[metric] for metric in self.objectives]


def met(constraints: Sequence[Constraint], values: Values) -> bool:
    """Whether a subnet with these values meets them all."""
    return all(each.violation(values[each.metric]) <= 0 for each in constraints)


def parse_metric(text: str, target: str) -> Metric:
    """`top1`, `macs`, `params`, `size`, `memory`, `latency` (of `target`) or `latency:TARGET`; raises InvalidInput."""
    kind, _, named = text.strip().partition(":")
    if kind not in get_args(MetricKind) or (named and kind != "latency"):
        raise InvalidInput(
            f"'{text}' is no metric.", f"Metrics are {', '.join(get_args(MetricKind))} and latency:TARGET."
        )
    return Metric(cast("MetricKind", kind), str(parse_target(named or target)) if kind == "latency" else "")


def parse_constraint(text: str, target: str) -> Constraint:
    """`macs<=50M`, `latency<=0.5ms`, `top1>=90%`, `size<=500kB`, ...; raises InvalidInput."""
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise InvalidInput(f"'{text}' is no constraint.", "Write macs<=50M, latency:TARGET<=0.5ms, top1>=90%.")
    metric = parse_metric(match["metric"], target)
    units = UNITS[metric.kind]
    unit = match["unit"].lower()
    if unit not in units:
        known = ", ".join(each for each in units if each)
        raise InvalidInput(f"'{text}' has the unknown unit '{match['unit']}'.", f"Units of {metric.kind}: {known}.")
    return Constraint(metric, cast("Relation", match["relation"]), float(match["bound"]) * units[unit])


def parse_goal(objectives: Sequence[str], constraints: Sequence[str], target: str) -> Goal:
    """A goal from texts such as those that `Goal`'s parts print; `target` is that of a plain `latency`."""
    return Goal(
        tuple(parse_metric(text, target) for text in objectives),
        tuple(parse_constraint(text, target) for text in constraints),
    )
