"""A quality table within a time budget: teacher, rehearsal, cells; each phase is kept and goes on where it was.

The budget is turned into a number of training steps, the same for all cells, by timing a few steps of each: cells that
got equal seconds instead would tell how fast a block type trains on this machine, not how well it can do its part.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...db import studies as queries
from ...db.engine import Database
from ...errors import InvalidInput, NotFound, NotReady
from ...spaces.hyperspace import Hyperspace
from ..pictures.data import Pictures
from ..training.budget import Budget
from .quality import CellCost, rehearse_cell
from .quality_cells import Workers, all_workers, each_cell
from .quality_filling import cell_tasks, fill_table, load_teacher, new_table, store_teacher, table_cells
from .quality_rows import QualityRow
from .quality_table import QualityPlan, QualityTable, read_table
from .teacher import Teacher, teacher_top1, train_teacher

OnProgress = Callable[[str, float, float], None]
"""(what is being done, done, total)."""

TEACHER_SHARE = 0.2
FLOAT_STEPS_PER_QUANTISED = 4
LEAST_STEPS = 8
PICTURES = 2048
"""Training pictures on which students imitate the teacher."""
RESERVE = 0.95
"""Share of the time that is planned; the rest is for steps that take longer than the rehearsed ones."""
_KIND = "quality"


@dataclass(frozen=True)
class QualityBudget:
    """Seconds for the whole table, rows for each stage, block type and window, and the rest of a plan."""

    seconds: float
    rows: int = 100
    weight_bits: int = 8
    seed: int = 0


@dataclass(frozen=True)
class FilledTable:
    """A finished table, its rows, and the seconds of this sitting."""

    table: QualityTable
    rows: list[QualityRow]
    seconds: float

    @property
    def rows_by_cell(self) -> Counter[tuple[int, int, int]]:
        """Number of rows for every stage (from 0), block type and window."""
        return Counter((row.stage, row.block, row.window) for row in self.rows)


def table_name(hyperspace: Hyperspace, pictures: Pictures, budget: QualityBudget) -> str:
    """The name of a table that was given none."""
    return f"{hyperspace.name}-{pictures.fingerprint[:8]}-{budget.weight_bits}bit-{budget.seed}"


def make_table(
    database: Database,
    hyperspace: Hyperspace,
    pictures: Pictures,
    name: str,
    budget: QualityBudget,
    *,
    checkpoint: Path | None = None,
    workers: Workers | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> FilledTable:
    """Make the table `name`, or go on with it; `checkpoint` is a teacher's weights, else one is trained.

    Raises InvalidInput where it was begun with other data, another hyperspace or other rows, where the checkpoint is
    none of this hyperspace's teachers, and for a budget that is too small.
    """
    started, workers = time.monotonic(), workers or all_workers()
    config = {
        "kind": _KIND,
        "hyperspace": hyperspace.name,
        "data": pictures.fingerprint,
        "rows": budget.rows,
        "weight_bits": budget.weight_bits,
        "seed": budget.seed,
    }
    with database.session() as session:
        run = queries.get_or_create_run(session, run_name(name), config)
        begun, state = dict(run.config), dict(run.state)
    for key, value in config.items():
        if begun.get(key) != value:
            raise InvalidInput(
                f"The quality table '{name}' was begun with another {key.replace('_', ' ')} ({begun.get(key)}).",
                "Give the same one to go on, or another --name.",
            )
    device, classes = workers.devices[0], len(pictures.classes)
    if "table" not in state:
        kept = state.get("teacher")
        if checkpoint is None and kept is not None and kept.get("budget_s") == budget.seconds:
            teacher = load_teacher(database.artefacts.read(kept["sha256"]), hyperspace, classes, device)
        else:
            teacher = _teacher(hyperspace, pictures, budget, checkpoint, device, on_progress)
            kept = {
                "sha256": store_teacher(database, teacher),
                "top1": teacher_top1(teacher, pictures, "val"),
                "seconds": time.monotonic() - started,
                "budget_s": None if checkpoint else budget.seconds,
            }
            _keep(database, name, "teacher", kept)
        left_s = budget.seconds - float(kept["seconds"])
        try:
            plan = _plan(hyperspace, teacher, pictures, budget, left_s, workers, on_progress)
        except InvalidInput:
            with database.session() as session:
                queries.forget_run(session, run_name(name))  # whoever tries again may ask for other rows
            raise
        table = new_table(database, hyperspace, teacher, pictures, kept["top1"], plan)
        state = _keep(database, name, "table", {"sha256": table.sha256})
    table = read_table(database, state["table"]["sha256"])  # another worker's, where that was first
    teacher = load_teacher(database.artefacts.read(table.teacher), hyperspace, classes, device)
    if checkpoint is not None and store_teacher(database, _loaded(checkpoint, hyperspace, classes)) != table.teacher:
        raise InvalidInput(
            f"The quality table '{name}' was begun with another teacher than {checkpoint}.",
            "Leave --teacher out to go on, or give another --name.",
        )
    rows = fill_table(
        database,
        hyperspace,
        table,
        teacher,
        pictures,
        workers=workers,
        on_cell=lambda done, total: on_progress("distilling stages", done, total),
    )
    if not state.get("rows"):
        _keep(database, name, "rows", {"rows": len(rows)}, last=True)
    return FilledTable(table, rows, time.monotonic() - started)


def find_table(database: Database, name: str) -> QualityTable:
    """A finished table by its name; raises NotFound or NotReady."""
    with database.session(read_only=True) as session:
        run = queries.find_run(session, run_name(name))
        state = dict(run.state) if run else None
    if state is None:
        raise NotFound(f"There is no quality table named '{name}'.", "Make one: milliseek spaces quality")
    if "rows" not in state:
        raise NotReady(f"The quality table '{name}' is not finished.", "milliseek spaces quality goes on with it.")
    return read_table(database, state["table"]["sha256"])


def run_name(name: str) -> str:
    """The name of a table's run in the database."""
    return f"{_KIND}:{name}"


def affordable_steps(costs: Sequence[CellCost], rows: Sequence[int], seconds: float) -> tuple[int, float]:
    """Floating point steps of every cell that fit in `seconds` of one process, and the seconds that the least need.

    A cell has `rows` rows, and a quantised step for some floating point ones. Negative where not even the rows fit.
    """
    step_s = sum(cost.float_s + cost.quantised_s / FLOAT_STEPS_PER_QUANTISED for cost in costs)
    rows_s = sum(cost.row_s * count for cost, count in zip(costs, rows, strict=True))
    return math.floor((RESERVE * seconds - rows_s) / step_s), (rows_s + LEAST_STEPS * step_s) / RESERVE


def _teacher(
    hyperspace: Hyperspace,
    pictures: Pictures,
    budget: QualityBudget,
    checkpoint: Path | None,
    device: str,
    on_progress: OnProgress,
) -> Teacher:
    if checkpoint is None:
        return train_teacher(
            hyperspace,
            pictures,
            Budget(seconds=TEACHER_SHARE * budget.seconds),
            seed=budget.seed,
            device=device,
            report=lambda fraction: on_progress("training the teacher", fraction, 1),
        )
    return _loaded(checkpoint, hyperspace, len(pictures.classes), device)


def _loaded(checkpoint: Path, hyperspace: Hyperspace, classes: int, device: str = "cpu") -> Teacher:
    try:
        data = checkpoint.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{checkpoint} cannot be read: {error.strerror}.", "Check the path.") from error
    return load_teacher(data, hyperspace, classes, device)


def _plan(
    hyperspace: Hyperspace,
    teacher: Teacher,
    pictures: Pictures,
    budget: QualityBudget,
    seconds: float,
    workers: Workers,
    on_progress: OnProgress,
) -> QualityPlan:
    started = time.monotonic()
    samples = -(-budget.rows // len(hyperspace.resolutions))
    trial = QualityPlan(Budget(steps=1), Budget(steps=1), samples, PICTURES, budget.weight_bits, budget.seed)
    cells = table_cells(hyperspace)
    with cell_tasks(hyperspace, teacher, pictures, trial, cells) as tasks:
        found: dict[int, CellCost] = {}
        for i, cost in each_cell(rehearse_cell, tasks, workers):
            found[i] = cost
            on_progress("timing the stages", len(found), len(cells))
        costs = [found[i] for i in range(len(cells))]
    rows = [samples * len(hyperspace.searched[s].windows) * len(hyperspace.resolutions) for s, _ in cells]
    rehearsal_s = time.monotonic() - started
    steps, least_s = affordable_steps(costs, rows, (seconds - rehearsal_s) * workers.count)
    if steps < LEAST_STEPS:
        least_s = (least_s / workers.count + rehearsal_s) / (1 - TEACHER_SHARE)
        raise InvalidInput(
            f"{budget.seconds:.0f} s are too short for {budget.rows} rows a cell of '{hyperspace.name}': "
            f"they need about {least_s:.0f} s.",
            "Raise --budget, or lower --rows.",
        )
    quantised = Budget(steps=max(1, steps // FLOAT_STEPS_PER_QUANTISED))
    return replace(trial, float_budget=Budget(steps=steps), quantised_budget=quantised)


def _keep(database: Database, name: str, phase: str, result: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
    """The run's state with the result of this phase; its table stays the one that was kept first."""
    with database.session() as session:
        known = queries.find_run(session, run_name(name))
        if phase == "table" and known is not None and phase in known.state:
            return dict(known.state)
        return dict(queries.finish_phase(session, run_name(name), phase, result, last=last).state)
