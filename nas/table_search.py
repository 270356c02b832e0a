"""Studies of spaces whose quality and latency are known: published tables, or those that an earlier study made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from ..db import spaces as space_queries
from ..db import studies as queries
from ..db.engine import Database
from ..db.models import Hyperspace as HyperspaceRow
from ..errors import InvalidInput
from ..predictors.lookup import LatencyLookup
from ..results import LatencyTable
from ..spaces.definition import definition
from ..spaces.hyperspace import Hyperspace, hyperspace_named
from .fastest import check_constraints
from .published_tables import PublishedTables
from .quality_rows import stored_rows
from .score import ScoreKind, Scorer
from .score_tables import MeasuredTables, ScoreTables
from .scorers import make_scorer
from .space_search import ScoredSpace, evolve_space

CompiledTable = Callable[[str, str], LatencyTable]
"""(hyperspace, target) -> its latency table."""


def evolve_on_tables(
    database: Database,
    tables: PublishedTables,
    scorer: Scorer,
    study: str,
    kind: ScoreKind,
    *,
    evaluations: int,
    population: int = 500,
    tournament: int = 125,
    seed: int = 0,
    on_trial: Callable[[int], None] = lambda _: None,
) -> list[ScoredSpace]:
    """Run or resume a study on published tables; raises InvalidInput where it was begun with others."""
    check_constraints(tables, scorer.constraints_ms)
    config: dict[str, Any] = {
        "hyperspace": tables.hyperspace.name,
        "tables": str(tables.path.absolute()),
        "digest": tables.digest,
        "constraints_ms": list(scorer.constraints_ms),
        "score": kind,
    }
    with database.session() as session:
        _hyperspace_row(session, tables.hyperspace)
        row = queries.get_or_create_study(session, study, kind="space", config=config)
        begun = dict(row.config)
    for key in ("hyperspace", "digest", "constraints_ms", "score"):
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


def study_tables(database: Database, study: str, compiled: CompiledTable) -> tuple[ScoreTables, Mapping[str, Any]]:
    """The tables that a study of spaces scores by, and its config; raises NotFound or InvalidInput."""
    with database.session(read_only=True) as session:
        row = queries.get_study(session, study)
        if row.kind != "space":
            raise InvalidInput(f"'{study}' is a study of subnets.", "Name a study of spaces: milliseek show")
        config, predictors = dict(row.config), list(row.predictors)
    hyperspace = hyperspace_named(config["hyperspace"])
    if "tables" in config:
        fixed_ms = {int(resolution): ms for resolution, ms in config["digest"]["fixed_ms"].items()}
        return PublishedTables(hyperspace, Path(config["tables"]), fixed_ms), config
    with database.session() as session:
        hyperspace_id = _hyperspace_row(session, hyperspace).id
    rows = stored_rows(database, hyperspace_id, config["teacher"])
    lookup = LatencyLookup(compiled(hyperspace.name, predictors[0].partition("@")[0]))
    return MeasuredTables(hyperspace, rows, lookup), config


def _hyperspace_row(session: Session, hyperspace: Hyperspace) -> HyperspaceRow:
    return space_queries.get_or_create_hyperspace(session, hyperspace.name, definition(hyperspace))


def study_scorer(
    database: Database, study: str, compiled: CompiledTable, constraints_ms: Sequence[float] | None = None
) -> Scorer:
    """The exact scorer of a study's tables, with its constraints unless others are given."""
    tables, config = study_tables(database, study, compiled)
    return make_scorer("exact", tables, constraints_ms or config["constraints_ms"], samples=0, seed=0)
