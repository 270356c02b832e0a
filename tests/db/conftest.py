"""Fixtures: a fresh database of each kind, and one stocked with the rows that others refer to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from milliseek.db import devices, networks, spaces
from milliseek.db.artefacts import save_artefact
from milliseek.db.engine import Database


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


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a database may be made, of each kind that there is."""
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    monkeypatch.setenv("MILLISEEK_HOME", str(path.parent))  # the artefacts go there
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
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
