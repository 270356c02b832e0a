"""A training of ten steps; as a program it is killed, as by `kill -9`, at the place that it is told.

    small_training.py DATABASE PLACE

PLACE is `step5` (after that step), `starting` (while the quantisers are started) or `writing` (a checkpoint is
written, but not yet under its name).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from milliseek.db import artefacts
from milliseek.db.engine import Database
from milliseek.nas.pictures.data import Pictures, Split, digits
from milliseek.nas.training import supernet_training
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernet import Supernet
from milliseek.nas.training.supernet_training import StepReport, SupernetTraining
from milliseek.nas.training.supernets import train_supernet
from milliseek.spaces.space import Space

SPACE = Space.decode("tiny32-0000-0000")
RECIPE = Recipe(Budget(steps=6), Budget(steps=4), weight_bits=7, batch=16, seed=1)
"""64 pictures in batches of 16: an epoch, and so a checkpoint, every fourth step."""


def small_pictures() -> Pictures:
    whole = digits()
    train, val, test = (Split(s.pixels[:64], s.labels[:64]) for s in (whole.train, whole.val, whole.test))
    return Pictures(train, val, test, whole.classes, whole.mean, whole.std, "small")


def train(
    folder: Path,
    on_step: Callable[[SupernetTraining, StepReport | None], None] = lambda *_: None,
    recipe: Recipe = RECIPE,
    space: Space = SPACE,
) -> Supernet:
    torch.set_num_threads(1)
    database = Database.open(f"sqlite:///{folder / 'milliseek.db'}")
    try:
        return train_supernet(database, "small", space, small_pictures(), recipe, on_step)
    finally:
        database.close()


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, place: str) -> None:
    def on_step(training: SupernetTraining, report: StepReport | None) -> None:
        if report is not None and place == f"step{training.steps}":
            die()

    if place == "starting":
        supernet_training.start_quantisation = die
    if place == "writing":
        artefacts.os.fsync = die
    train(folder, on_step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
