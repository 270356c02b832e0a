"""The quality table of a hyperspace for one data set: built cell by cell, stored, resumable, parallel."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager

import torch

from ..db import spaces as queries
from ..db.artefacts import save_artefact
from ..db.engine import Database
from ..spaces.definition import definition
from ..spaces.hyperspace import Hyperspace
from .budget import Budget
from .data import Pictures
from .quality import CellTask, distill_cell
from .quality_rows import QualityRow, store_rows, stored_rows
from .teacher import Teacher, stage_features

FEATURE_PICTURES = 512
"""Training pictures on which students imitate the teacher."""


def store_teacher(database: Database, teacher: Teacher) -> str:
    """Keep the teacher's weights; returns the SHA-256 that names its quality table."""
    buffer = io.BytesIO()
    torch.save(teacher.state_dict(), buffer)
    with database.session() as session:
        return save_artefact(session, database.artefacts, buffer.getvalue(), "teacher")


def load_teacher(database: Database, sha256: str, hyperspace: Hyperspace, classes: int) -> Teacher:
    """Inverse of `store_teacher`."""
    teacher = Teacher(hyperspace, classes)
    state = torch.load(io.BytesIO(database.artefacts.read(sha256)), weights_only=True)
    teacher.load_state_dict(state)
    return teacher.eval()


def quality_table(
    database: Database,
    hyperspace: Hyperspace,
    teacher: Teacher,
    teacher_sha256: str,
    pictures: Pictures,
    cell_budget: tuple[Budget, Budget],
    *,
    samples: int = 6,
    weight_bits: int = 8,
    seed: int = 0,
    on_cell: Callable[[int, int], None] = lambda *_: None,
) -> list[QualityRow]:
    """All rows, those of cells that the database lacks distilled now, as many at once as there are cores.

    `cell_budget` is the fp32 and the fake-quantised training of one cell; `samples` rows are made for each window
    and resolution of a cell. A cell is stored when it is finished; an interrupted one starts again.
    """
    with database.session() as session:
        row = queries.get_or_create_hyperspace(session, hyperspace.name, definition(hyperspace))
        hyperspace_id = row.id
    cells = [(s, b) for s in range(len(hyperspace.searched)) for b in range(len(hyperspace.blocks))]
    known = stored_rows(database, hyperspace_id, teacher_sha256)
    complete = {(s, b): samples * len(hyperspace.searched[s].windows) * len(hyperspace.resolutions) for s, b in cells}
    counts = {cell: sum((r.stage, r.block) == cell for r in known) for cell in cells}
    # Drawing the same sub-stage twice gives one row, so a complete cell may have a few rows less.
    todo = [cell for cell in cells if counts[cell] < 0.5 * complete[cell]]
    on_cell(len(cells) - len(todo), len(cells))
    if todo:
        features = stage_features(teacher, pictures, hyperspace.resolutions, FEATURE_PICTURES, seed)
        tasks = [
            CellTask(hyperspace, s, b, features[s], *cell_budget, samples=samples, weight_bits=weight_bits, seed=seed)
            for s, b in todo
        ]
        done = len(cells) - len(todo)
        for rows in _distilled(tasks):
            store_rows(database, hyperspace_id, teacher_sha256, rows)
            done += 1
            on_cell(done, len(cells))
    return stored_rows(database, hyperspace_id, teacher_sha256)


def _distilled(tasks: Sequence[CellTask]) -> Iterator[list[QualityRow]]:
    """Rows of each cell as soon as it is finished, heaviest stages first so that the cores finish together."""
    workers = max(1, min(len(tasks), len(os.sched_getaffinity(0))))
    with _pool(workers) as pool:
        waiting = list(tasks)
        running: set[Future[list[QualityRow]]] = set()
        while waiting or running:
            while waiting and len(running) < workers + 1:
                running.add(pool.submit(distill_cell, waiting.pop(0)))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with us: on ctrl-C nobody waits for the cells under way."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()
