"""Several processes at once on one database: creating it, and getting or creating the same rows."""

from __future__ import annotations

import subprocess
import sys

from sqlalchemy import func, select

from milliseek.db.engine import Database
from milliseek.db.models import Device, Kernel, Predictor

PROCESSES = 3

SCRIPT = """
import sys
from milliseek.db import devices, measurements, predictors
from milliseek.db.artefacts import record_artefact
from milliseek.db.engine import Database
import milliseek.db.schema, alembic.command  # what is slow to import, before the start
print("ready", flush=True)
sys.stdin.readline()
database = Database.open(sys.argv[1])
for turn in range(10):
    with database.session() as session:
        device = devices.upsert_device(session, f"device{turn}", "local", {"by": sys.argv[2]})
        target = devices.get_or_create_target(
            session, f"device{turn}/o/int8", device_id=device.id, runtime="o", precision="int8"
        )
        kernels = [(f"kernel{turn}-{i}", "conv", {"i": i}) for i in range(20)]
        measurements.get_or_create_kernels(session, kernels)
        record_artefact(session, "ab" * 32, "predictor", 1)
        predictors.add_predictor(
            session, target.id, runtime_version="1", artefact_sha256="ab" * 32, held_out={}, kernels=1, networks=1
        )
"""


def run_together(url: str) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, url, str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(PROCESSES)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors


def assert_nothing_lost_or_doubled(database: Database) -> None:
    with database.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Device)) == 10
        assert session.scalar(select(func.count()).select_from(Kernel)) == 200
        versions = session.scalars(select(Predictor.version).order_by(Predictor.target_id, Predictor.version))
        assert list(versions) == [1, 2, 3] * 10


def test_processes_create_and_fill_one_database(url: str) -> None:
    run_together(url)
    database = Database.open(url, create=False)
    assert_nothing_lost_or_doubled(database)
    database.close()


def test_processes_fill_an_open_database(database: Database) -> None:
    run_together(database.url)
    assert_nothing_lost_or_doubled(database)
