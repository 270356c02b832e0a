"""What users see when the disk, the file or another program is in the way: one sentence with a remedy."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, text

from milliseek.db.engine import Database
from milliseek.db.models import Device
from milliseek.db.schema import HEAD
from milliseek.errors import StorageError

FROZEN = Path(__file__).with_name("frozen") / f"{HEAD}.db"

WRITE_UNTIL_FULL = """
import sys
from milliseek.db.engine import Database
from milliseek.db.models import Device
from milliseek.errors import StorageError
{limit}
try:
    database = Database.open("sqlite:///" + sys.argv[1])
    for i in range(1000):
        with database.session() as session:
            session.add(Device(name=f"{{i}}", kind="local", facts={{"big": "x" * 10_000}}))
        print("stored", i, flush=True)
except StorageError as error:
    print("failed:", error)
"""
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


def child(code: str, *arguments: str, prefix: tuple[str, ...] = ()) -> list[str]:
    command = [*prefix, sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def assert_whole(path: Path, devices: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM ms_device").fetchone() == (devices,)


def test_locked_database_can_be_read_but_not_written(sqlite: Database, path: Path) -> None:
    impatient = Database.open(f"sqlite:///{path}?timeout=0.05")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=f"{path} is locked by another program"), impatient.session() as s:
            s.add(Device(name="a", kind="local", facts={}))
        with impatient.session(read_only=True) as session:
            assert session.scalars(select(Device)).all() == []
    with impatient.session() as session:
        session.add(Device(name="a", kind="local", facts={}))
    impatient.close()


@pytest.mark.parametrize("content", [b"just some text, and rather a lot of it" * 100, b"PK\3\4" + bytes(5000)])
def test_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"{path} is not a SQLite database"):
        Database.open(f"sqlite:///{path}")
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_damaged_database(path: Path) -> None:
    path.parent.mkdir()
    data = FROZEN.read_bytes()
    path.write_bytes(data[:512] + b"\xff" * (len(data) - 512))
    with pytest.raises(StorageError, match=f"{path} is damaged"):
        Database.open(f"sqlite:///{path}")


def test_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{tmp_path} cannot be opened"):
        Database.open(f"sqlite:///{tmp_path}")


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot be created: .*(Not a directory|File exists)"):
        Database.open(f"sqlite:///{tmp_path}/file/milliseek.db")


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_read_only_database_can_be_read_but_not_written(path: Path, journal: str) -> None:
    path.parent.mkdir()
    shutil.copy(FROZEN, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
    database = Database.open(f"sqlite:///file:{path}?mode=ro&uri=true")
    with database.session(read_only=True) as session:
        assert session.scalars(select(Device)).one().name == "epyc-1a2b"
    with pytest.raises(StorageError, match=f"{path} cannot be written: .* read-only"), database.session() as s:
        s.add(Device(name="a", kind="local", facts={}))
    database.close()


def test_full_database_undoes_the_session(sqlite: Database, path: Path) -> None:
    def write_too_much() -> None:
        with sqlite.session() as session:
            session.execute(text("PRAGMA max_page_count=1"))  # the file may not grow from here
            session.add(Device(name="a", kind="local", facts={"big": "x" * 100_000}))

    with pytest.raises(StorageError, match="the disk is full"):
        write_too_much()
    sqlite.close()
    assert_whole(path, devices=0)


def test_writing_until_files_may_not_grow(path: Path) -> None:
    *stored, failed = child(WRITE_UNTIL_FULL.format(limit=SMALL_FILES.format(700_000)), str(path))
    assert stored
    assert failed.startswith(f"failed: The database {path} cannot be")
    assert_whole(path, devices=len(stored))


def test_creating_where_files_may_not_grow_can_be_repeated(path: Path) -> None:
    (failed,) = child(WRITE_UNTIL_FULL.format(limit=SMALL_FILES.format(50_000)), str(path))
    assert failed.startswith(f"failed: The database {path} cannot be")
    Database.open(f"sqlite:///{path}").close()
    assert_whole(path, devices=0)


def test_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 1 MiB of our own, where the system lets us make one."""
    inside = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}"
    probe = subprocess.run([*inside, mount], capture_output=True, check=False) if shutil.which("unshare") else None
    if probe is None or probe.returncode:
        pytest.skip("this system lets no test mount a file system")
    prefix = (*inside, f'{mount} && exec "$@"', "sh")
    *stored, failed = child(WRITE_UNTIL_FULL.format(limit=""), f"{tmp_path}/milliseek.db", prefix=prefix)
    assert stored
    assert "the disk is full" in failed


def test_read_only_disk(tmp_path: Path) -> None:
    """On a read-only mount of our own, where the system lets us make one; root ignores mere permissions."""
    inside = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    mount = f"mount -t tmpfs -o ro none {tmp_path}"
    probe = subprocess.run([*inside, mount], capture_output=True, check=False) if shutil.which("unshare") else None
    if probe is None or probe.returncode:
        pytest.skip("this system lets no test mount a file system")
    prefix = (*inside, f'{mount} && exec "$@"', "sh")
    code = WRITE_UNTIL_FULL.format(limit="")
    (failed,) = child(code, f"{tmp_path}/new/milliseek.db", prefix=prefix)
    assert "cannot be created" in failed
    assert "Read-only file system" in failed
    (failed,) = child(code, f"{tmp_path}/milliseek.db", prefix=prefix)
    assert "cannot be opened" in failed
