"""Fixtures: a fresh database, and one stocked with the rows that others refer to.

With MILLISEEK_TEST_POSTGRES=postgresql://... the contract tests run on that server as well. Name a database made
for this: all that is in its schema `public` is dropped first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from milliseek.db import devices, networks, spaces
from milliseek.db.artefacts import save_artefact
from milliseek.db.engine import Database

POSTGRES = os.environ.get("MILLISEEK_TEST_POSTGRES")


@dataclass(frozen=True)
class Stock:
    """A database with one target, artefact, model, hyperspace and space."""

    database: Database
    target_id: int
    artefact: str
    model: str
    hyperspace_id: int
    space_id: int


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "milliseek.db"


@pytest.fixture
def sqlite(path: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES else [])])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
        return
    assert POSTGRES is not None
    monkeypatch.setenv("MILLISEEK_HOME", str(tmp_path))
    engine = create_engine(POSTGRES.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    database = Database.open(POSTGRES)
    yield database
    database.close()


@pytest.fixture
def stock(database: Database) -> Stock:
    with database.session() as session:
        device = devices.upsert_device(session, "epyc-1a2b", "local", {"cores": 2})
        target = devices.get_or_create_target(
            session,
            "epyc-1a2b/onnxruntime/int8",
            device_id=device.id,
            runtime="onnxruntime",
            precision="int8",
        )
        artefact = save_artefact(session, database.artefacts, b"weights", "predictor")
        file = save_artefact(session, database.artefacts, b"network", "onnx")
        networks.get_or_create_model(session, file, format="onnx", name="net.onnx")
        hyperspace = spaces.get_or_create_hyperspace(session, "small32", {"stages": 4})
        space = spaces.get_or_create_space(session, "small32-1511-0212", hyperspace.id)
    return Stock(database, target.id, artefact, file, hyperspace.id, space.id)
