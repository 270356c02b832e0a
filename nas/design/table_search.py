"""Studies of spaces whose quality and latency are known: published tables, or those that an earlier study made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from ...db import spaces as space_queries
from ...db import studies as queries
from ...db.engine import Database
from ...db.models import Hyperspace as HyperspaceRow
from ...errors import InvalidInput
from ...predictors.lookups.lookup import LatencyLookup
from ...results import LatencyTable
from ...spaces.definition import definition
from ...spaces.hyperspace import Hyperspace, hyperspace_named
from ..quality.quality_table import read_table, table_rows
from .fastest import check_constraints
from .published_tables import PublishedTables
from .score import ScoreKind, Scorer
from .score_tables import MeasuredTables, ScoreTables
from .scorers import SeveralTargets, make_scorer
from .space_search import ScoredSpace, evolve_space

CompiledTable = Callable[[str, str], LatencyTable]
"""(hyperspace, target) -> its latency table."""
PUBLISHED = "published"
"""Stands for the target of published tables, which do not name theirs."""


def evolve_on_tables(
    database: Database,
    tables: PublishedTables,
    scorer: Scorer,
    study: str,
    kind: ScoreKind,
    *,
    draws: list[int] | None = None,
    evaluations: int,
    population: int = 500,
    tournament: int = 125,
    seed: int = 0,
    on_trial: Callable[[int], None] = lambda _: None,
) -> list[ScoredSpace]:
    """Run or resume a study on published tables; raises InvalidInput where it was begun with others.

    `draws`: what Monte Carlo's scores depend on, their number and the seed.
    """
    check_constraints(tables, scorer.constraints_ms)
    config: dict[str, Any] = {
        "hyperspace": tables.hyperspace.name,
        "tables": str(tables.path.absolute()),
        "digest": tables.digest,
        "constraints_ms": list(scorer.constraints_ms),
        "score": kind,
        "draws": draws,
    }
    with database.session() as session:
        _hyperspace_row(session, tables.hyperspace)
        row = queries.get_or_create_study(session, study, kind="space", config=config)
        begun = dict(row.config)
    for key in ("hyperspace", "digest", "constraints_ms", "score", "draws"):
        if begun.get(key) != config[key]:
            raise InvalidInput(
                f"The study '{study}' was begun with another {key} ({begun.get(key)}).",
                "Give the same one to resume it, or another name for a new study.",
            )
    return evolve_space(
        database.url,
        study,
        scorer,
        evaluations=evaluations,
        population=population,
        tournament=tournament,
        seed=seed,
        on_trial=on_trial,
    )


@dataclass(frozen=True)
class StudyTables:
    """The tables that a study of spaces scores by and its constraints, by target (`PUBLISHED`: no target)."""

    tables: Mapping[str, ScoreTables]
    constraints_ms: Mapping[str, tuple[float, ...]]

    def constrained(self, constraints_ms: Sequence[Sequence[float]] | None) -> StudyTables:
        """The same with other constraints, for every target in turn, where they are given; raises InvalidInput."""
        if constraints_ms is None:
            return self
        if len(constraints_ms) != len(self.tables):
            raise InvalidInput(
                f"{len(constraints_ms)} lists of constraints do not fit the study's targets: {', '.join(self.tables)}.",
                "Give --constraints once for each of them, in this order.",
            )
        given = (tuple(limits) for limits in constraints_ms)
        return StudyTables(self.tables, dict(zip(self.tables, given, strict=True)))

    def only(self, target: str | None) -> StudyTables:
        """Those of one target, the first one if none is named; raises InvalidInput."""
        name = target or next(iter(self.tables))
        if name not in self.tables:
            raise InvalidInput(f"The study has no target '{name}'.", f"Its targets: {', '.join(self.tables)}.")
        return StudyTables({name: self.tables[name]}, {name: self.constraints_ms[name]})

    def scorer(self, kind: ScoreKind = "exact", *, samples: int = 0, seed: int = 0) -> Scorer:
        """A scorer for all of the targets; `samples` and `seed` are Monte Carlo's."""
        return SeveralTargets.of(
            {
                name: make_scorer(kind, tables, self.constraints_ms[name], samples=samples, seed=seed)
                for name, tables in self.tables.items()
            }
        )


def study_tables(database: Database, study: str, compiled: CompiledTable) -> StudyTables:
    """What a study of spaces scores by; raises NotFound or InvalidInput."""
    with database.session(read_only=True) as session:
        row = queries.get_study(session, study)
        if row.kind != "space":
            raise InvalidInput(f"'{study}' is a study of subnets.", "Name a study of spaces: milliseek show")
        config, predictors = dict(row.config), queries.begun_predictors(session, study)
    hyperspace = hyperspace_named(config["hyperspace"])
    if "tables" in config:
        fixed_ms = {int(resolution): ms for resolution, ms in config["digest"]["fixed_ms"].items()}
        published = PublishedTables(hyperspace, Path(config["tables"]), fixed_ms)
        return StudyTables({PUBLISHED: published}, {PUBLISHED: tuple(config["constraints_ms"])})
    quality = read_table(database, config["quality"])
    rows = table_rows(database, hyperspace, quality)
    constraints_ms = {target: tuple(limits) for target, limits in config["constraints_ms"].items()}
    tables = {
        target: MeasuredTables(
            hyperspace, rows, LatencyLookup(compiled(hyperspace.name, predictors.get(target, target))), quality.noise
        )
        for target in constraints_ms
    }
    return StudyTables(tables, constraints_ms)


def _hyperspace_row(session: Session, hyperspace: Hyperspace) -> HyperspaceRow:
    return space_queries.get_or_create_hyperspace(session, hyperspace.name, definition(hyperspace))
