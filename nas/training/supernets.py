"""Supernets in the database: trained with checkpoints, resumed by name, loaded for search and export."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ...db import spaces as space_queries
from ...db import studies as queries
from ...db.artefacts import forget_artefact, save_artefact
from ...db.engine import Database
from ...errors import InvalidInput, NotReady
from ...spaces.definition import definition
from ...spaces.space import Space, Subnet
from ..pictures.data import Pictures
from .memory import keep_freed_memory
from .processes import Processes
from .recipe import Recipe
from .supernet import Supernet
from .supernet_training import StepReport, SupernetTraining, trained_supernet

CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 15.0, 0.02
"""Seconds between checkpoints, longer where writing one would take more than that share of the time.

There is one after every epoch and phase too.
"""

FINISHED = "finished"


def train_supernet(
    database: Database,
    name: str,
    space: Space,
    pictures: Pictures,
    recipe: Recipe,
    on_step: Callable[[SupernetTraining, StepReport | None], None] = lambda *_: None,
    processes: Processes | None = None,
    only: Subnet | None = None,
) -> Supernet:
    """Train the supernet `name`, or go on where its last checkpoint was; a finished one is loaded.

    Returns the averaged weights, in main memory. `only`: this subnet alone. With several processes all call this, and
    the leading one alone uses the database. Raises InvalidInput where the checkpoint is of another space, of other
    pictures or of another recipe, and StorageError where a checkpoint cannot be written: the one before stays whole.
    """
    keep_freed_memory()
    processes = processes or Processes(torch.device("cpu"))
    last, checkpoint = _begin(database, name, space, pictures, recipe) if processes.leads else (None, None)
    checkpoint = processes.shared(checkpoint)
    if checkpoint is None:
        training = SupernetTraining(space, pictures, recipe, processes, only)
    else:
        training = SupernetTraining.from_state(checkpoint, pictures, processes)
        recipe.check_same(training.recipe, name)
        if training.supernet.only != only:
            raise InvalidInput(f"'{name}' was begun with another choice of subnets.", "Give it another name.")
    on_step(training, None)
    saved_at, saved, writing_s = time.monotonic(), (training.epoch, training.phase), 0.0
    while not training.finished:
        report = training.step()
        on_step(training, report)
        place = (training.epoch, training.phase)
        now = time.monotonic()
        due = place != saved or now - saved_at >= max(CHECKPOINT_SECONDS, writing_s / CHECKPOINT_SHARE)
        if processes.leads and due:
            last = _save(database, name, training, last)
            saved_at, saved = time.monotonic(), place
            writing_s = saved_at - now
    return training.averaged.to("cpu")


def _begin(
    database: Database, name: str, space: Space, pictures: Pictures, recipe: Recipe
) -> tuple[str | None, bytes | None]:
    """SHA-256 and content of the last checkpoint; None where there is none yet."""
    with database.session() as session:
        hyperspace = space_queries.get_or_create_hyperspace(
            session, space.hyperspace.name, definition(space.hyperspace)
        )
        row = space_queries.get_or_create_space(session, space.encoding, hyperspace.id)
        stored = queries.get_or_create_supernet(
            session,
            name,
            space_id=row.id,
            config=recipe.values(),
            data_fingerprint=pictures.fingerprint,
            phase="float",
        )
        if stored.space.encoding != space.encoding:
            raise InvalidInput(
                f"The supernet '{name}' is of the space {stored.space.encoding}, not {space.encoding}.",
                "Give the new one another name.",
            )
        last = stored.artefact_sha256
        return last, None if last is None else database.artefacts.read(last)


def picture_size(database: Database, name: str) -> int:
    """Height and width of the pictures that a supernet was trained on, in pixels; raises NotFound."""
    with database.session(read_only=True) as session:
        space = Space.decode(queries.get_supernet(session, name).space.encoding)
    return trained_size(space)


def trained_size(space: Space) -> int:
    """Height and width of the pictures for a training: no subnet wants them larger."""
    return max(space.hyperspace.resolutions)


def load_supernet(database: Database, name: str, pictures: Pictures) -> Supernet:
    """A finished supernet, in main memory; raises NotFound, NotReady (still training) or InvalidInput."""
    with database.session(read_only=True) as session:
        stored = queries.get_supernet(session, name)
        checkpoint, phase = stored.artefact_sha256, stored.phase
    if checkpoint is None or phase != FINISHED:
        raise NotReady(f"The supernet '{name}' is not trained to the end.", "Resume it: milliseek supernet train")
    return trained_supernet(database.artefacts.read(checkpoint), pictures)


def _save(database: Database, name: str, training: SupernetTraining, last: str | None) -> str:
    """SHA-256 of the new checkpoint, which is complete before the `last` one goes.

    Raises InvalidInput where that is not the last one any more: somebody else trains this supernet.
    """
    state = training.state()
    with database.session() as session:
        if queries.get_supernet(session, name).artefact_sha256 != last:
            raise InvalidInput(
                f"Another process has gone on with the supernet '{name}'.",
                "Leave it to that one, or give another name.",
            )
        sha256 = save_artefact(session, database.artefacts, state, "checkpoint")
        replaced = queries.update_supernet(
            session, name, phase=training.phase, step=training.steps, artefact_sha256=sha256
        )
        forgotten = replaced is not None and replaced != sha256 and forget_artefact(session, replaced)
    if replaced is not None and forgotten:
        database.artefacts.discard(replaced)
    return sha256
