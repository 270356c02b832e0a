"""Filling a quality table: cell by cell, stored, resumable, parallel."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from ...db.artefacts import save_artefact
from ...db.engine import Database
from ...errors import InvalidInput
from ...spaces.hyperspace import Hyperspace
from ..pictures.data import Pictures
from .quality import CellTask, distill_cell, stage_fragment
from .quality_cells import Workers, all_workers, each_cell
from .quality_rows import QualityRow, store_rows, stored_rows
from .quality_table import QualityPlan, QualityTable, hyperspace_row_id, read_table
from .teacher import Teacher, resolution_noise, write_features


def store_teacher(database: Database, teacher: Teacher) -> str:
    """Keep the teacher's weights; returns their SHA-256."""
    buffer = io.BytesIO()
    torch.save(teacher.cpu_state(), buffer)
    with database.session() as session:
        return save_artefact(session, database.artefacts, buffer.getvalue(), "teacher")


def load_teacher(data: bytes, hyperspace: Hyperspace, classes: int, device: str = "cpu") -> Teacher:
    """A teacher from the bytes of a checkpoint; raises InvalidInput for those of another hyperspace or other data."""
    import pickle

    teacher = Teacher(hyperspace, classes)
    try:
        teacher.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    except (RuntimeError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise InvalidInput(
            f"The checkpoint holds no teacher of '{hyperspace.name}' for {classes} classes.",
            "Train one: milliseek spaces quality --teacher-out FILE",
        ) from error
    return teacher.eval().to(device)


def new_table(
    database: Database,
    hyperspace: Hyperspace,
    teacher: Teacher,
    pictures: Pictures,
    teacher_top1: float,
    plan: QualityPlan,
) -> QualityTable:
    """A table without rows; the same arguments give the same table."""
    noise = resolution_noise(teacher, pictures, hyperspace.resolutions)
    described = {
        "hyperspace": hyperspace.name,
        "data": pictures.fingerprint,
        "teacher": store_teacher(database, teacher),
        "teacher_top1": teacher_top1,
        "noise": {str(resolution): value for resolution, value in noise.items()},
        "plan": asdict(plan),
    }
    with database.session() as session:
        text = json.dumps(described, sort_keys=True).encode()
        sha256 = save_artefact(session, database.artefacts, text, "quality table")
    return read_table(database, sha256)


def fill_table(
    database: Database,
    hyperspace: Hyperspace,
    table: QualityTable,
    teacher: Teacher,
    pictures: Pictures,
    *,
    workers: Workers | None = None,
    on_cell: Callable[[int, int], None] = lambda *_: None,
) -> list[QualityRow]:
    """All rows, those of cells that the database lacks distilled now, as many at once as there are `workers`.

    A cell's rows are stored together when it is finished; an interrupted one starts again.
    """
    hyperspace_id = hyperspace_row_id(database, hyperspace)
    cells = table_cells(hyperspace)
    known = {(row.stage, row.block) for row in stored_rows(database, hyperspace_id, table.sha256)}
    todo = [cell for cell in cells if cell not in known]
    done = len(cells) - len(todo)
    on_cell(done, len(cells))
    if todo:
        with cell_tasks(hyperspace, teacher, pictures, table.plan, todo) as tasks:
            for _, rows in each_cell(distill_cell, tasks, workers or all_workers()):
                store_rows(database, hyperspace_id, table.sha256, rows)
                done += 1
                on_cell(done, len(cells))
    return stored_rows(database, hyperspace_id, table.sha256)


def table_cells(hyperspace: Hyperspace) -> list[tuple[int, int]]:
    """(searched stage from 0, block type) of all cells, those with most parameters first.

    They take longest, and the last cells to be begun should be short: the other workers wait for them.
    """

    def parameters(cell: tuple[int, int]) -> int:
        s, block = cell
        fragment = stage_fragment(
            hyperspace, s, block, max(hyperspace.stages[s].widths), max(hyperspace.searched[s].widths)
        )
        return fragment.network(fragment.extreme(largest=True), max(hyperspace.resolutions)).params

    cells = [(s, b) for s in range(len(hyperspace.searched)) for b in range(len(hyperspace.blocks))]
    return sorted(cells, key=parameters, reverse=True)


@contextmanager
def cell_tasks(
    hyperspace: Hyperspace, teacher: Teacher, pictures: Pictures, plan: QualityPlan, cells: Sequence[tuple[int, int]]
) -> Iterator[list[CellTask]]:
    """Tasks for these cells; what they learn from is in files as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="milliseek-features-") as folder:
        write_features(teacher, pictures, hyperspace.resolutions, Path(folder), plan.pictures, plan.seed)
        yield [
            CellTask(
                hyperspace,
                stage,
                block,
                Path(folder),
                plan.float_budget,
                plan.quantised_budget,
                samples=plan.samples,
                weight_bits=plan.weight_bits,
                positions=plan.positions,
                learning_rate=plan.learning_rate,
                seed=plan.seed,
            )
            for stage, block in cells
        ]
