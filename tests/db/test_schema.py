"""The schema: models and migrations agree, every old database can be upgraded, Optuna may live beside us."""

from __future__ import annotations

import io
import shutil
import sqlite3
from contextlib import closing, redirect_stdout
from pathlib import Path

import optuna
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import IntegrityError

from milliseek.db import schema
from milliseek.db.engine import Database
from milliseek.db.models import PREFIX, Base, Device
from milliseek.errors import NotReady, StorageError

FROZEN = sorted(Path(__file__).with_name("frozen").glob("*.db"))

LATER = f"""
import sqlalchemy as sa
from alembic import op

revision = "v9.0.0"
down_revision = "{schema.HEAD}"

def upgrade():
    with op.batch_alter_table("ms_device", recreate="always") as batch:
        batch.add_column(sa.Column("colour", sa.String(), server_default="grey", nullable=False))
"""


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A milliseek whose newest revision is v9.0.0; returns the file of that migration."""
    scripts = tmp_path / "later 100%"
    shutil.copytree(Path(schema.__file__).with_name("migrations"), scripts)
    original = schema.alembic_config

    def config(connection: Connection | None = None, dialect_name: str | None = None) -> Config:
        config = original(connection, dialect_name)
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        return config

    monkeypatch.setattr(schema, "alembic_config", config)
    monkeypatch.setattr(schema, "HEAD", "v9.0.0")
    migration = scripts / "versions" / "v9_0_0.py"
    migration.write_text(LATER)
    return migration


def test_models_and_migrations_agree(database: Database) -> None:
    with database.session(read_only=True) as session:
        context = MigrationContext.configure(
            session.connection(), opts={"version_table": schema.VERSION_TABLE, "target_metadata": Base.metadata}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_every_table_is_prefixed() -> None:
    assert all(name.startswith(PREFIX) for name in Base.metadata.tables)


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(schema.alembic_config()).get_heads() == [schema.HEAD]


def test_postgresql_gets_tables_and_triggers() -> None:
    sql = io.StringIO()
    config = schema.alembic_config(dialect_name="postgresql")
    config.output_buffer = sql
    with redirect_stdout(sql):
        command.upgrade(config, "head", sql=True)
    assert "CREATE TABLE ms_measurement" in sql.getvalue()
    assert "BEFORE UPDATE OR DELETE OR TRUNCATE ON ms_measurement" in sql.getvalue()


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda path: path.stem)
def test_frozen_database_can_be_upgraded(frozen: Path, path: Path) -> None:
    path.parent.mkdir()
    shutil.copy(frozen, path)
    database = Database.connect(f"sqlite:///{path}")
    with database.session(read_only=True) as session:
        tables = set(inspect(session.connection()).get_table_names())
    assert database.upgrade() == frozen.stem
    database.close()
    database = Database.open(f"sqlite:///{path}", create=False)
    with database.session() as session:
        for mapper in Base.registry.mappers:
            row = session.scalars(select(mapper.class_)).first()
            assert (row is not None) == (mapper.local_table.name in tables), mapper
        with pytest.raises(IntegrityError, match="append-only"):
            session.execute(text("DELETE FROM ms_measurement"))
    database.close()


def test_devices_of_the_first_schema_go_on(url: str, path: Path) -> None:
    path.parent.mkdir()
    database = Database.connect(url, create=True)
    with database.session() as session:
        command.upgrade(schema.alembic_config(session.connection()), "v0.1.0")
        row = {"name": "epyc-1a2b", "kind": "local", "now": "2026-01-02 03:04:05.000000+00:00"}
        columns = "(name, kind, facts, created_at) VALUES (:name, :kind, '{}', :now)"
        session.execute(text(f"INSERT INTO ms_device {columns}"), row)
    assert database.upgrade() == "v0.1.0"
    with database.session(read_only=True) as session:
        device = session.scalars(select(Device)).one()
        assert (device.name, device.model, device.state, device.connected) == ("epyc-1a2b", None, "active", False)
    database.close()


def test_newest_revision_is_frozen() -> None:
    assert schema.HEAD in [path.stem for path in FROZEN]


def test_older_database_names_the_command_and_is_left_alone(sqlite: Database, later: Path) -> None:
    with pytest.raises(NotReady, match=r"older than .* `milliseek db upgrade`"):
        Database.open(sqlite.url)
    assert sqlite.revision == FROZEN[-1].stem


def test_upgrade_rebuilds_tables_and_keeps_rows_and_references(path: Path, later: Path) -> None:
    path.parent.mkdir()
    shutil.copy(FROZEN[0], path)
    database = Database.connect(f"sqlite:///{path}")
    assert database.upgrade() == "v0.1.0"
    assert database.upgrade() == "v9.0.0"
    with database.session() as session:
        assert session.execute(text("SELECT name, colour FROM ms_device")).one() == ("epyc-1a2b", "grey")
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            session.execute(text("DELETE FROM ms_device"))
    database.close()


def test_failed_upgrade_changes_nothing(path: Path, later: Path) -> None:
    path.parent.mkdir()
    shutil.copy(FROZEN[0], path)
    with later.open("a") as file:
        file.write("    raise RuntimeError('half way')\n")
    database = Database.connect(f"sqlite:///{path}")
    with pytest.raises(RuntimeError, match="half way"):
        database.upgrade()
    assert database.revision == "v0.1.0"
    with database.session(read_only=True) as session:
        assert session.scalar(text("SELECT name FROM ms_device")) == "epyc-1a2b"
    database.close()


def test_upgrade_refuses_dangling_references(path: Path, later: Path) -> None:
    path.parent.mkdir()
    shutil.copy(FROZEN[0], path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE ms_target SET device_id = 99")
    database = Database.connect(f"sqlite:///{path}")
    with pytest.raises(StorageError, match="missing rows"):
        database.upgrade()
    assert database.revision == "v0.1.0"
    database.close()


def test_newer_database_is_refused(sqlite: Database) -> None:
    with sqlite.session() as session:
        session.execute(text("UPDATE ms_alembic_version SET version_num = 'v99.0.0'"))
    for attempt in (lambda: Database.open(sqlite.url), sqlite.upgrade):
        with pytest.raises(StorageError, match=r"written by a newer milliseek .*pip install -U milliseek"):
            attempt()
    assert sqlite.revision == "v99.0.0"


def test_database_without_our_tables_needs_upgrade_unless_created(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(NotReady, match="`milliseek db upgrade`"):
        Database.open(f"sqlite:///{path}", create=False)
    Database.open(f"sqlite:///{path}").close()
    Database.open(f"sqlite:///{path}", create=False).close()


def optuna_study(url: str) -> None:
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert len(optuna.load_study(storage=storage, study_name="s").trials) == 1
    storage.engine.dispose()


def test_optuna_comes_second(database: Database) -> None:
    optuna_study(database.url)
    Database.open(database.url).close()


def test_optuna_comes_first(url: str, path: Path) -> None:
    path.parent.mkdir()
    optuna_study(url)
    database = Database.open(url)
    assert database.revision == schema.HEAD
    storage = optuna.storages.RDBStorage(url)
    assert [study.study_name for study in optuna.get_all_study_summaries(storage)] == ["s"]
    storage.engine.dispose()
    database.close()


def test_journal_is_ours_even_if_optuna_came_first(path: Path) -> None:
    path.parent.mkdir()
    optuna_study(f"sqlite:///{path}")
    database = Database.open(f"sqlite:///{path}")
    with database.session(read_only=True) as session:
        assert session.connection().exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()
