"""Quality tables: what the students of a teacher were asked, and the rows that came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ...db import spaces as queries
from ...db.engine import Database
from ...spaces.definition import definition
from ...spaces.hyperspace import Hyperspace
from ..training.budget import Budget
from .quality_rows import QualityRow, stored_rows


@dataclass(frozen=True)
class QualityPlan:
    """What the students of a teacher are asked: the budgets of one cell, in fp32 and fake-quantised.

    `samples` rows are made for each window and resolution of a cell, of different sub-stages; `pictures` is the number
    of training pictures that students learn from; `positions` and `learning_rate` are those of a `CellTask`.
    """

    float_budget: Budget
    quantised_budget: Budget
    samples: int = 6
    pictures: int = 512
    weight_bits: int = 8
    seed: int = 0
    positions: int = 512
    learning_rate: float = 3e-2


@dataclass(frozen=True)
class QualityTable:
    """A quality table; its rows are stored under `sha256`, the name of the artefact that says all this.

    `noise`: what the teacher loses at each resolution (`teacher.resolution_noise`), on top of the students' NSR.
    """

    sha256: str
    hyperspace: str
    data: str
    teacher: str
    teacher_top1: float
    noise: Mapping[int, float]
    plan: QualityPlan


def read_table(database: Database, sha256: str) -> QualityTable:
    """A table by its SHA-256."""
    described = json.loads(database.artefacts.read(sha256))
    plan = described.pop("plan")
    floating, quantised = (Budget(**plan.pop(key)) for key in ("float_budget", "quantised_budget"))
    noise = {int(resolution): value for resolution, value in described.pop("noise").items()}
    return QualityTable(sha256=sha256, **described, noise=noise, plan=QualityPlan(floating, quantised, **plan))


def table_rows(database: Database, hyperspace: Hyperspace, table: QualityTable) -> list[QualityRow]:
    """The rows that a table has so far."""
    return stored_rows(database, hyperspace_row_id(database, hyperspace), table.sha256)


def hyperspace_row_id(database: Database, hyperspace: Hyperspace) -> int:
    """The number of a hyperspace in the database, stored if it is new."""
    with database.session() as session:
        return queries.get_or_create_hyperspace(session, hyperspace.name, definition(hyperspace)).id
