"""Opening a database and working in its sessions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError

from milliseek.db.engine import Database
from milliseek.db.models import Device, Run
from milliseek.errors import InvalidInput, MissingExtra, NotFound


def add_device(database: Database, name: str = "a") -> None:
    with database.session() as session:
        session.add(Device(name=name, kind="local", facts={}))


def names(database: Database) -> list[str]:
    with database.session(read_only=True) as session:
        return list(session.scalars(select(Device.name)))


def test_new_database_gets_folder_schema_and_artefacts_beside_it(path: Path) -> None:
    database = Database.open(f"sqlite:///{path}")
    assert path.is_file()
    assert database.artefacts.root == path.parent / "artefacts"
    assert database.url == f"sqlite:///{path}"
    database.close()


def test_missing_database_is_not_created_on_request(path: Path) -> None:
    with pytest.raises(NotFound, match=str(path)):
        Database.open(f"sqlite:///{path}", create=False)
    assert not path.parent.exists()


def test_path_with_spaces_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "my 100% #1 folder" / "a b.db"
    database = Database.open(f"sqlite:///{path}")
    add_device(database)
    assert path.exists()
    database.close()


def test_pragmas(sqlite: Database) -> None:
    with sqlite.session() as session:
        connection = session.connection()
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL


def test_several_make_one_new_file_a_wal_at_once(tmp_path: Path) -> None:
    # SQLite refuses one of two that do, whatever the timeout: about one in four of these tries, without another.
    def connect(file: Path) -> str | None:
        database = Database.connect(f"sqlite:///{file}", create=True)
        together.wait()
        revision = database.revision
        database.close()
        return revision

    together = Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        for number in range(40):
            file = tmp_path / f"{number}.db"
            assert list(pool.map(connect, [file] * 3)) == [None] * 3


def test_session_commits_or_undoes_everything(database: Database) -> None:
    add_device(database)

    def fail() -> None:
        with database.session() as session:
            session.add(Device(name="b", kind="local", facts={}))
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(database) == ["a"]


def test_objects_stay_usable_after_the_session(database: Database) -> None:
    with database.session() as session:
        device = Device(name="a", kind="local", facts={"cores": 2})
        session.add(device)
    assert (device.name, device.facts) == ("a", {"cores": 2})


def test_read_only_session_sees_one_snapshot_and_waits_for_nobody(database: Database) -> None:
    add_device(database)
    with database.session(read_only=True) as reader:
        assert len(reader.scalars(select(Device)).all()) == 1
    with database.session() as writer, database.session(read_only=True) as reader:
        writer.add(Device(name="b", kind="local", facts={}))
        writer.flush()
        assert len(reader.scalars(select(Device)).all()) == 1


def test_writing_in_a_read_only_session_is_a_bug(sqlite: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"), sqlite.session(read_only=True) as session:
        session.execute(insert(Device), [{"name": "a", "kind": "local", "facts": {}}])
    add_device(sqlite)  # the connection goes back to the pool able to write
    assert names(sqlite) == ["a"]


def test_times_are_aware_and_in_utc(database: Database) -> None:
    before = datetime.now(UTC)
    with database.session() as session:
        cest = datetime(2026, 7, 1, 14, 30, tzinfo=timezone(timedelta(hours=2)))
        session.add(Device(name="a", kind="local", facts={}, created_at=cest))
        session.add(Device(name="b", kind="local", facts={}))
    with database.session(read_only=True) as session:
        a, b = session.scalars(select(Device.created_at).order_by(Device.name))
        assert session.scalar(select(Device.name).where(Device.created_at == cest)) == "a"
    assert (a, a.tzinfo) == (cest, UTC)
    assert before <= b <= datetime.now(UTC)


def test_naive_time_is_refused(database: Database) -> None:
    naive = datetime(2026, 7, 1)  # noqa: DTZ001
    with pytest.raises(StatementError, match="no time zone"), database.session() as session:
        session.add(Device(name="a", kind="local", facts={}, created_at=naive))


def test_not_a_number_is_no_json(database: Database) -> None:
    with pytest.raises((StatementError, ValueError), match="not JSON compliant"), database.session() as session:
        session.add(Run(name="r", config={"loss": float("nan")}, state={}))


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"), database.session() as session:
        session.execute(
            text("INSERT INTO ms_model (sha256, format, name, info, created_at) VALUES ('x', 'f', 'n', '{}', :t)"),
            {"t": datetime(2026, 1, 1, tzinfo=UTC).isoformat(" ")},
        )


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_memory_is_no_place_to_keep_things(url: str) -> None:
    with pytest.raises(InvalidInput, match="in memory"):
        Database.open(url)


@pytest.mark.parametrize("url", ["nonsense", "nosuchdb://u:secret@host/x", "sqlite+nosuch:///x"])
def test_bad_url_names_good_ones_and_keeps_the_password(url: str) -> None:
    with pytest.raises(InvalidInput, match="--db") as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)


def test_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"milliseek\[postgres\]"):
        Database.open("postgresql://u:secret@localhost/x")
