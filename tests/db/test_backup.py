"""Backups: complete, made while others write, never over something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from milliseek.db.engine import Database
from milliseek.db.models import Device
from milliseek.errors import InvalidInput, StorageError


def add_device(database: Database, name: str) -> None:
    with database.session() as session:
        session.add(Device(name=name, kind="local", facts={}))


def test_backup_restores(sqlite: Database, tmp_path: Path) -> None:
    add_device(sqlite, "before")
    with sqlite.session() as session:  # a writer in the middle of its work is no obstacle, and not in the copy
        session.add(Device(name="unfinished", kind="local", facts={}))
        session.flush()
        copy = sqlite.backup(tmp_path / "copy.db")
    add_device(sqlite, "after")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "home"]
    restored = Database.open(f"sqlite:///{copy}", create=False)
    with restored.session(read_only=True) as session:
        assert list(session.scalars(select(Device.name))) == ["before"]
    restored.close()


def test_backup_of_an_older_schema_needs_no_upgrade(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milliseek.db.schema.HEAD", "v9.0.0")
    database = Database.connect(sqlite.url)
    assert database.backup(tmp_path / "copy.db").exists()
    database.close()


def test_backup_never_overwrites(sqlite: Database, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(InvalidInput, match="exists already"):
        sqlite.backup(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_backup_into_a_missing_folder(sqlite: Database, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        sqlite.backup(tmp_path / "nowhere" / "copy.db")


def test_backup_where_links_are_unknown(sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    sqlite.backup(tmp_path / "copy.db")
    Database.open(f"sqlite:///{tmp_path / 'copy.db'}", create=False).close()


def test_server_is_backed_up_by_its_own_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InvalidInput, match="pg_dump"):
        Database.connect("postgresql://localhost/x").backup(tmp_path / "copy.db")
