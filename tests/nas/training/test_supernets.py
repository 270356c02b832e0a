"""Trainings in the database: killed, out of disk, resumed with something else, shared by two processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from milliseek.db import artefacts
from milliseek.db import studies as queries
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, NotReady, StorageError
from milliseek.nas.pictures.data import digits
from milliseek.nas.training.evaluation import calibration_batches, recalibrate, top1
from milliseek.nas.training.supernet import Supernet
from milliseek.nas.training.supernet_training import SupernetTraining
from milliseek.nas.training.supernets import load_supernet
from milliseek.spaces.space import Space, extreme_subnet

from .. import small_training
from ..small_training import RECIPE, SPACE, small_pictures, train


def metrics(supernet: Supernet) -> list[float]:
    pictures = small_pictures()
    calibration = calibration_batches(pictures, 1, 16)
    subnets = [extreme_subnet(SPACE, largest=largest) for largest in (False, True)]
    return [top1(supernet, each, recalibrate(supernet, each, calibration), pictures, "val") for each in subnets]


def same(a: Supernet, b: Supernet) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    return train(tmp_path_factory.mktemp("uninterrupted"))


def stored(folder: Path) -> tuple[str, int, bytes | None]:
    database = Database.open(f"sqlite:///{folder / 'milliseek.db'}")
    with database.session(read_only=True) as session:
        row = queries.get_supernet(session, "small")
        phase, step, sha256 = row.phase, row.step, row.artefact_sha256
    data = database.artefacts.read(sha256) if sha256 else None
    database.close()
    return phase, step, data


@pytest.mark.slow
def test_kill_9_in_every_phase_and_again_ends_in_the_same_weights(tmp_path: Path, uninterrupted: Supernet) -> None:
    reached = []
    for place in ("step5", "starting", "step9", "writing"):
        program = [sys.executable, small_training.__file__, str(tmp_path), place]
        killed = subprocess.run(program, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        phase, step, _ = stored(tmp_path)
        reached.append((phase, step))
    assert reached == [("float", 4), ("float", 4), ("quantised", 8), ("quantised", 8)]
    finished = train(tmp_path)
    assert same(finished, uninterrupted)
    assert metrics(finished) == metrics(uninterrupted)
    assert stored(tmp_path)[:2] == ("finished", 10)


def test_a_full_disk_leaves_the_previous_checkpoint_whole(
    tmp_path: Path, uninterrupted: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(training: SupernetTraining, _: object) -> None:
        if training.steps == 7:
            monkeypatch.setattr(artefacts.os, "fsync", full)

    with pytest.raises(StorageError, match=r"checkpoint of \d+ bytes cannot be stored .* No space left"):
        train(tmp_path, fill)
    monkeypatch.undo()
    phase, step, data = stored(tmp_path)
    assert (phase, step) == ("float", 4)
    assert data is not None
    assert SupernetTraining.from_state(data, small_pictures()).steps == 4
    assert not list((tmp_path / "artefacts").rglob(".partial-*"))
    assert same(train(tmp_path), uninterrupted)


def test_a_second_training_of_the_same_name_ends_rather_than_undo_the_first(
    tmp_path: Path, uninterrupted: Supernet
) -> None:
    def overtake(training: SupernetTraining, report: object) -> None:
        if training.steps == 5 and report is not None:
            assert same(train(tmp_path), uninterrupted)

    with pytest.raises(InvalidInput, match="Another process has gone on with the supernet 'small'"):
        train(tmp_path, overtake)
    assert stored(tmp_path)[:2] == ("finished", 10)


def test_a_supernet_is_resumed_only_as_it_was_begun(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(training: SupernetTraining, report: object) -> None:
        if training.steps == 5 and report is not None:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path, stop)
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    with pytest.raises(NotReady, match="not trained to the end"):
        load_supernet(database, "small", small_pictures())
    database.close()
    with pytest.raises(InvalidInput, match="is of the space tiny32-0000-0000, not tiny32-1111-0000"):
        train(tmp_path, space=Space.decode("tiny32-1111-0000"))
    with pytest.raises(InvalidInput, match="begun with batch 16, not 8"):
        train(tmp_path, recipe=replace(RECIPE, batch=8))
    with pytest.raises(InvalidInput, match="float budget 6 steps, not 9 steps"):
        train(tmp_path, recipe=replace(RECIPE, float_budget=replace(RECIPE.float_budget, steps=9)))


def test_what_is_loaded_are_the_averaged_weights(tmp_path: Path, uninterrupted: Supernet) -> None:
    assert same(train(tmp_path), uninterrupted)
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    assert same(load_supernet(database, "small", small_pictures()), uninterrupted)
    with pytest.raises(InvalidInput, match="other pictures"):
        load_supernet(database, "small", digits())
    database.close()
    data = stored(tmp_path)[2]
    assert data is not None
    assert not same(SupernetTraining.from_state(data, small_pictures()).supernet, uninterrupted)


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from small_training import RECIPE, SPACE, small_pictures
from milliseek.db.engine import Database
from milliseek.nas.training.processes import joined
from milliseek.nas.training.supernets import train_supernet

torch.set_num_threads(1)
with joined("cpu") as processes:
    assert processes.count == 2
    database = Database.open("sqlite:///" + sys.argv[2])
    recipe = replace(RECIPE, shards=2)
    train_supernet(database, "small", SPACE, small_pictures(), recipe, processes=processes)
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Started by torchrun, with gloo; one process that cuts the batch in two in turn takes the very same steps."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    database = tmp_path / "milliseek.db"
    done = subprocess.run(
        [*launcher, str(program), str(Path(small_training.__file__).parent), str(database)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone = SupernetTraining(SPACE, small_pictures(), replace(RECIPE, shards=2))
    while not alone.finished:
        alone.step()
    data = stored(tmp_path)[2]
    assert data is not None
    together = SupernetTraining.from_state(data, small_pictures())
    assert together.finished
    assert same(together.supernet, alone.supernet)
    assert same(together.averaged, alone.averaged)
