"""The schema's revision: reading it, judging it, and bringing a database up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from ..errors import NotReady, StorageError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "v0.2.0"
"""The newest revision, written down so that opening a database need not import Alembic; a test compares."""

VERSION_TABLE = "ms_alembic_version"

_LOCK_KEY = 0x6D696C6C69  # "milli": one arbitrary number for PostgreSQL's advisory lock


def alembic_config(connection: Connection | None = None, dialect_name: str | None = None) -> Config:
    """Alembic's configuration for an open connection, or for a dialect when only SQL is wanted."""
    from alembic.config import Config

    config = Config()
    # Alembic reads % as interpolation, and folders may contain one.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["dialect_name"] = dialect_name
    return config


def current_revision(connection: Connection) -> str | None:
    """Revision of the database behind `connection`; None if it has no milliseek tables."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    return None if revision is None else str(revision)


def check_revision(revision: str | None, name: str) -> None:
    """Raise unless `revision` is the newest: NotReady if older or absent, StorageError if unknown.

    `name` says which database, for the message.
    """
    if revision == HEAD:
        return
    if revision is None:
        raise NotReady(f"{name} has no milliseek tables yet.", "Run `milliseek db upgrade` to create them.")
    _check_known(revision, name)
    raise NotReady(
        f"{name} has schema {revision}, older than the {HEAD} that this milliseek needs.",
        "Keep a copy with `milliseek db backup`, then run `milliseek db upgrade`.",
    )


def apply_migrations(connection: Connection, name: str) -> str | None:
    """Bring the schema up to date inside the caller's transaction; returns the revision it had before.

    The caller holds the write lock where the database has one (SQLite's BEGIN IMMEDIATE); on PostgreSQL an
    advisory lock lets one process migrate at a time. Raises StorageError for a revision from a newer milliseek.
    """
    from alembic import command

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    before = current_revision(connection)
    if before == HEAD:
        return before
    if before is not None:
        _check_known(before, name)
    command.upgrade(alembic_config(connection), "head")
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise StorageError(
            f"{name} has rows that refer to missing rows, so it cannot be upgraded; it was left as it was.",
            "Restore a backup, or start a new database with --db.",
        )
    return before


def _check_known(revision: str, name: str) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if revision not in known:
        raise StorageError(
            f"{name} was written by a newer milliseek (schema {revision}; this one knows up to {HEAD}).",
            "Update with `pip install -U milliseek`, or name another database with --db or MILLISEEK_DB.",
        )
