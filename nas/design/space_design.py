"""The design of a space for one or several targets: quality table, latency tables, evolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...client import Client
from ...db import studies as queries
from ...db.engine import Database
from ...errors import InvalidInput
from ...predictors.lookups.lookup import LatencyLookup
from ...predictors.targets import DeviceTarget
from ...spaces.hyperspace import Hyperspace
from ...spaces.space import Space
from ..pictures.data import Pictures
from ..quality.quality_filling import fill_table, load_teacher, new_table
from ..quality.quality_table import QualityPlan, QualityTable, read_table
from ..quality.teacher import teacher_top1, train_teacher
from ..training.budget import Budget
from .fastest import check_budgets, check_constraints
from .latency_budgets import default_budgets_ms
from .score import ScoreKind
from .score_tables import MeasuredTables
from .scorers import SeveralTargets, TimedScorer, make_scorer
from .space_search import ScoredSpace, evolve_space

OnProgress = Callable[[str, float, float], None]
"""(what is being done, done, total)."""


@dataclass(frozen=True)
class SpacePlan:
    """How much work the design of a space may be; cell budgets are those of one (stage, block) cell.

    Teacher, cells and samples are those of a quality table that is made for the study.
    """

    teacher: Budget
    cell: tuple[Budget, Budget]
    samples: int = 6
    evaluations: int = 500
    population: int = 100
    tournament: int = 25
    score: ScoreKind = "exact"
    score_samples: int = 60_000
    seed: int = 0

    @property
    def draws(self) -> list[int] | None:
        """What Monte Carlo's scores depend on, number and seed; None for exact ones."""
        return [self.score_samples, self.seed] if self.score == "montecarlo" else None


@dataclass(frozen=True)
class DesignedSpaces:
    """Spaces that a study has scored, best first, constraints by target, and seconds spent scoring in this sitting."""

    ranking: list[ScoredSpace]
    constraints_ms: Mapping[str, tuple[float, ...]]
    seconds_scoring: float


def design_space(
    database: Database,
    client: Client,
    targets: Sequence[DeviceTarget],
    hyperspace: Hyperspace,
    pictures: Pictures,
    study: str,
    plan: SpacePlan,
    constraints_ms: Sequence[Sequence[float]] | None = None,
    quality: QualityTable | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> DesignedSpaces:
    """Run or resume the study `study` of spaces that are good and fast on all of the targets.

    `constraints_ms`: for every target in turn; without them each gets some that its networks can meet. `quality`: a
    table that is there already; without it one is made for this study. The study remembers both, and the predictors.
    Raises InvalidInput.
    """
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise InvalidInput("A target is given twice.", "Give each --target once.")
    with database.session(read_only=True) as session:
        begun = queries.begun_predictors(session, study)
    lookups = {name: LatencyLookup(client.latency_table(hyperspace.name, begun.get(name, name))) for name in names}
    if constraints_ms is not None:
        if len(constraints_ms) != len(lookups):
            raise InvalidInput(
                f"{len(constraints_ms)} lists of constraints do not fit {len(lookups)} targets.",
                "Give --constraints once for every --target, in the same order.",
            )
        for lookup, limits in zip(lookups.values(), constraints_ms, strict=True):
            check_budgets(hyperspace, lookup, limits)
    if quality is not None and (quality.hyperspace, quality.data) != (hyperspace.name, pictures.fingerprint):
        raise InvalidInput(
            f"The quality table is of '{quality.hyperspace}' or of other data.", "Make one: milliseek spaces quality"
        )
    with database.session(read_only=True) as session:
        known = queries.find_study(session, study)
        config: dict[str, Any] = dict(known.config) if known else {}
    if known is None:
        if constraints_ms is None:
            constraints_ms = [default_budgets_ms(hyperspace, lookup, plan.seed) for lookup in lookups.values()]
        table = quality or _own_table(database, hyperspace, pictures, plan, targets, on_progress)
        config = {
            "hyperspace": hyperspace.name,
            "data": pictures.fingerprint,
            "quality": table.sha256,
            "constraints_ms": {name: list(limits) for name, limits in zip(names, constraints_ms, strict=True)},
            "score": plan.score,
            "draws": plan.draws,
        }
        with database.session() as session:
            predictors = [lookup.table.predictor for lookup in lookups.values()]
            row = queries.get_or_create_study(session, study, kind="space", config=config, predictors=predictors)
            config = dict(row.config)  # another worker may have begun it in the meantime
    _check_study(study, config, hyperspace, pictures, plan, names, constraints_ms, quality)
    table = read_table(database, config["quality"])
    teacher = load_teacher(database.artefacts.read(table.teacher), hyperspace, len(pictures.classes))
    rows = fill_table(
        database,
        hyperspace,
        table,
        teacher,
        pictures,
        on_cell=lambda done, total: on_progress("distilling stages", done, total),
    )
    limits_ms = {name: tuple(limits) for name, limits in config["constraints_ms"].items()}
    each = {}
    for name, limits in limits_ms.items():
        tables = MeasuredTables(hyperspace, rows, lookups[name], table.noise)
        check_constraints(tables, limits)
        each[name] = make_scorer(plan.score, tables, limits, samples=plan.score_samples, seed=plan.seed)
    scorer = TimedScorer(SeveralTargets.of(each))
    ranking = evolve_space(
        database.url,
        study,
        scorer,
        evaluations=plan.evaluations,
        population=plan.population,
        tournament=plan.tournament,
        seed=plan.seed,
        on_trial=lambda done: on_progress("evolving the space", done, plan.evaluations),
    )
    return DesignedSpaces(ranking, limits_ms, scorer.seconds)


def _own_table(
    database: Database,
    hyperspace: Hyperspace,
    pictures: Pictures,
    plan: SpacePlan,
    targets: Sequence[DeviceTarget],
    on_progress: OnProgress,
) -> QualityTable:
    """A table without rows, for weights as narrow as the most careful of the targets needs them."""
    on_progress("training the teacher", 0, 1)
    teacher = train_teacher(
        hyperspace,
        pictures,
        plan.teacher,
        seed=plan.seed,
        report=lambda fraction: on_progress("training the teacher", fraction, 1),
    )
    weight_bits = min(target.weight_bits for target in targets)
    asked = QualityPlan(*plan.cell, samples=plan.samples, weight_bits=weight_bits, seed=plan.seed)
    return new_table(database, hyperspace, teacher, pictures, teacher_top1(teacher, pictures, "val"), asked)


def _check_study(
    study: str,
    config: dict[str, Any],
    hyperspace: Hyperspace,
    pictures: Pictures,
    plan: SpacePlan,
    targets: Sequence[str],
    constraints_ms: Sequence[Sequence[float]] | None,
    quality: QualityTable | None,
) -> None:
    """Raise InvalidInput, naming the first difference, where the study was begun with something else."""
    begun_ms = config["constraints_ms"]
    asked: dict[str, tuple[Any, Any]] = {
        "hyperspace": (config.get("hyperspace"), hyperspace.name),
        "data": (config.get("data"), pictures.fingerprint),
        "score": (config.get("score"), plan.score),
        "number of Monte Carlo draws, or seed": (config.get("draws"), plan.draws),
        "targets": (sorted(begun_ms), sorted(targets)),
    }
    if constraints_ms is not None and len(constraints_ms) == len(targets):
        given = {name: list(limits) for name, limits in zip(targets, constraints_ms, strict=True)}
        asked["constraints"] = (begun_ms, given)
    if quality is not None:
        asked["quality table"] = (config["quality"], quality.sha256)
    for what, (before, now) in asked.items():
        if before != now:
            raise InvalidInput(
                f"The study '{study}' was begun with other {what} ({before}).",
                "Give the same to resume it, or another name with --study.",
            )


def best_space(ranking: Sequence[ScoredSpace]) -> Space:
    """The winner; raises InvalidInput where no space meets any constraint."""
    if not ranking or ranking[0].score <= 0:
        raise InvalidInput("No space of this hyperspace meets any of the latency constraints.", "Raise them.")
    return ranking[0].space
