"""Supernets in the database: trained with checkpoints, resumed by name, loaded for search and export."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..db import spaces as space_queries
from ..db import studies as queries
from ..db.artefacts import forget_artefact, save_artefact
from ..db.engine import Database
from ..errors import InvalidInput, NotReady
from ..spaces.definition import definition
from ..spaces.space import Space
from .data import Pictures
from .memory import keep_freed_memory
from .supernet import Recipe, StepReport, Supernet, SupernetTraining

CHECKPOINT_SECONDS = 15.0
"""Seconds of training that a crash can cost at most."""

FINISHED = "finished"


def train_supernet(
    database: Database,
    name: str,
    space: Space,
    pictures: Pictures,
    recipe: Recipe,
    on_step: Callable[[SupernetTraining, StepReport | None], None] = lambda *_: None,
) -> Supernet:
    """Train the supernet `name`, or go on where its last checkpoint was; a finished one is loaded.

    Raises InvalidInput where the checkpoint is of another space or of other pictures.
    """
    keep_freed_memory()
    with database.session() as session:
        hyperspace = space_queries.get_or_create_hyperspace(
            session, space.hyperspace.name, definition(space.hyperspace)
        )
        row = space_queries.get_or_create_space(session, space.encoding, hyperspace.id)
        stored = queries.get_or_create_supernet(
            session,
            name,
            space_id=row.id,
            config={"batch": recipe.batch, "learning_rate": recipe.learning_rate, "weight_bits": recipe.weight_bits},
            data_fingerprint=pictures.fingerprint,
            phase="float",
        )
        if stored.space.encoding != space.encoding:
            raise InvalidInput(
                f"The supernet '{name}' is of the space {stored.space.encoding}, not {space.encoding}.",
                "Give the new one another name.",
            )
        checkpoint = stored.artefact_sha256
    if checkpoint is None:
        training = SupernetTraining(space, pictures, recipe)
    else:
        training = SupernetTraining.from_state(database.artefacts.read(checkpoint), pictures)
    on_step(training, None)
    saved_at = time.monotonic()
    while not training.finished:
        report = training.step()
        on_step(training, report)
        if time.monotonic() - saved_at >= CHECKPOINT_SECONDS or training.finished:
            _save(database, name, training)
            saved_at = time.monotonic()
    return training.supernet


def load_supernet(database: Database, name: str, pictures: Pictures) -> Supernet:
    """A finished supernet; raises NotFound, NotReady (still training) or InvalidInput (other pictures)."""
    with database.session(read_only=True) as session:
        stored = queries.get_supernet(session, name)
        checkpoint, phase = stored.artefact_sha256, stored.phase
    if checkpoint is None or phase != FINISHED:
        raise NotReady(f"The supernet '{name}' is not trained to the end.", "Resume it: milliseek supernet train")
    return SupernetTraining.from_state(database.artefacts.read(checkpoint), pictures).supernet


def _save(database: Database, name: str, training: SupernetTraining) -> None:
    """The new checkpoint is complete before the old one goes."""
    phase = FINISHED if training.finished else ("quantised" if training.supernet.quantised else "float")
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, training.state(), "checkpoint")
        replaced = queries.update_supernet(session, name, phase=phase, step=training.steps, artefact_sha256=sha256)
        forgotten = replaced is not None and replaced != sha256 and forget_artefact(session, replaced)
    if replaced is not None and forgotten:
        database.artefacts.discard(replaced)
