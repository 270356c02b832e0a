"""Opening the database: connections, the schema's revision, sessions, backups."""

from __future__ import annotations

import errno
import json
import sqlite3
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session

from .. import config
from ..errors import InvalidInput, MissingExtra, NotFound, StorageError
from .artefacts import ArtefactStore
from .failures import storage_errors
from .schema import apply_migrations, check_revision, current_revision

_BUSY_TIMEOUT_S = 30
_BUSY_POLL_S = 0.01
_READ_ONLY = "milliseek_read_only"  # execution option that tells the BEGIN of a reading transaction


class Database:
    """An open database and the artefact store that goes with it; safe to share between threads.

    Open one per process: connections do not survive a fork. `open` is for everyday use; `connect` leaves the
    schema alone and is for upgrades and backups.
    """

    def __init__(self, engine: Engine, name: str, artefacts: ArtefactStore) -> None:
        self._engine = engine
        self._reading = engine.execution_options(**{_READ_ONLY: True, "postgresql_readonly": True})
        self._name = name
        self.artefacts = artefacts

    @classmethod
    def open(cls, url: str, create: bool = True) -> Database:
        """Open the database at a SQLAlchemy URL, creating folder and schema if it is new and `create` is set.

        Raises NotFound (no such file and not `create`), NotReady (the schema is older: `milliseek db
        upgrade`), StorageError (written by a newer milliseek, not a database, locked, read-only, full),
        InvalidInput (not a usable URL) and MissingExtra (the driver is not installed). Two processes may
        create the same database at once: one does, the other waits.
        """
        database = cls.connect(url, create=create)
        try:
            revision = database.revision
            if revision is None and create:
                database.upgrade()
            else:
                check_revision(revision, database._name)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def connect(cls, url: str, create: bool = False) -> Database:
        """Like `open`, but neither creates nor checks the schema."""
        parsed = _parse(url)
        file = sqlite_file(parsed)
        name = f"The database {file or parsed.render_as_string(hide_password=True)}"
        if file is not None and not file.exists():
            if not create:
                raise NotFound(f"{name} does not exist.", "Check --db and MILLISEEK_DB.")
            _make_folder(file.parent, name)
        root = (file.parent if file is not None else config.data_dir()) / "artefacts"
        return cls(_create_engine(parsed), name, ArtefactStore(root))

    @property
    def url(self) -> str:
        """The SQLAlchemy URL, password included: what Optuna's storage needs."""
        return self._engine.url.render_as_string(hide_password=False)

    @property
    def revision(self) -> str | None:
        """Revision of the schema; None if the database has no milliseek tables."""
        with storage_errors(self._name), self._reading.connect() as connection:
            return current_revision(connection)

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[Session]:
        """A transaction: committed when the block ends, rolled back when it raises.

        On SQLite a writing session holds the write lock from its first statement on, so that what it read
        cannot change before it writes; keep it short, others wait up to 30 s. A `read_only` session sees one
        snapshot, waits for nobody and works on a read-only file; writing in it is a bug and raises the
        driver's error.
        Objects stay usable after the session.
        """
        engine = self._reading if read_only else self._engine
        with (
            storage_errors(self._name, read_only=read_only),
            Session(engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def upgrade(self) -> str | None:
        """Bring the schema to the newest revision in one transaction; returns the one before (None: new).

        Raises StorageError if the database was written by a newer milliseek; it is then left as it was.
        """
        with storage_errors(self._name), self._engine.connect() as connection:
            # Migrations rebuild tables on SQLite, which foreign keys would forbid; they are checked before
            # the commit instead. The pragma works only outside a transaction, hence on the driver's connection.
            driver = connection.connection.driver_connection
            if not isinstance(driver, sqlite3.Connection):
                with connection.begin():
                    return apply_migrations(connection, self._name)
            driver.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin():
                    return apply_migrations(connection, self._name)
            finally:
                driver.execute("PRAGMA foreign_keys=ON")

    def backup(self, path: Path) -> Path:
        """Copy a SQLite database, while others use it, to the new file `path`; returns its absolute path.

        The copy appears complete or not at all. The artefacts are not in it: copy the folder
        `artefacts.root` after this call; its files never change once written, so any copier will do.
        Raises InvalidInput if `path` exists or the database is not SQLite, StorageError if it cannot be
        written.
        """
        path = path.expanduser().absolute()
        if self._engine.dialect.name != "sqlite":
            raise InvalidInput(
                f"{self._name} is not a SQLite file, so milliseek cannot copy it.",
                "Use the server's own tool: `pg_dump` for PostgreSQL.",
            )
        if path.exists():
            raise InvalidInput(f"{path} exists already; a backup never overwrites.", "Choose another name.")
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".milliseek-backup-") as folder:
                partial = Path(folder, path.name)
                with storage_errors(f"The backup of {self._name[0].lower()}{self._name[1:]} to {path}"):
                    self._copy(partial)
                _publish(partial, path)
        except FileExistsError as error:
            raise InvalidInput(f"{path} exists already; a backup never overwrites.", "Choose another name.") from error
        except OSError as error:
            raise StorageError(
                f"The backup {path} cannot be written: {error.strerror}.",
                "Choose another folder or free some space.",
            ) from error
        return path

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _copy(self, to: Path) -> None:
        with self._reading.connect() as connection, closing(sqlite3.connect(to)) as copy:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one self-contained file, without -wal beside it


def sqlite_file(url: URL) -> Path | None:
    """The file behind a SQLite URL; None for other databases. InvalidInput for a database in memory."""
    if url.get_backend_name() != "sqlite":
        return None
    name = url.database or ""
    if name.startswith("file:"):
        name = urllib.parse.unquote(urllib.parse.urlsplit(name).path)
    if not name or name == ":memory:" or url.query.get("mode") == "memory":
        raise InvalidInput(
            "A database in memory would be gone when the command ends.",
            "Name a file with --db or MILLISEEK_DB.",
        )
    return Path(name).absolute()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            # SQLAlchemy 2.0 and 2.1 disagree on the default driver.
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidInput(
            f"'{url.partition('://')[0]}://...' is not a database URL that SQLAlchemy understands.",
            "Give --db or MILLISEEK_DB a file name, sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
        ) from error
    return parsed


def _make_folder(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{name} cannot be created: {error.filename or folder}: {error.strerror}.",
            "Make the folder writable, or name another database with --db or MILLISEEK_DB.",
        ) from error


def _create_engine(url: URL) -> Engine:
    connect_args: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite" and "timeout" not in url.query:
        connect_args["timeout"] = _BUSY_TIMEOUT_S
    try:
        engine = create_engine(
            url,
            connect_args=connect_args,
            json_serializer=_to_json,
            pool_pre_ping=url.get_backend_name() != "sqlite",
        )
    except ModuleNotFoundError as error:
        extra = "postgres" if url.get_backend_name() == "postgresql" else "server"
        raise MissingExtra(error.name or url.drivername, extra) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin)
    return engine


def _to_json(value: object) -> str:
    # NaN is no JSON: PostgreSQL refuses it, so SQLite must not take it either.
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _publish(partial: Path, path: Path) -> None:
    try:
        path.hardlink_to(partial)  # unlike a rename, fails if somebody else made `path` meanwhile
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        partial.rename(path)  # memory sticks know no links


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # Python's driver begins too late and too weakly: `_begin` does it
    for pragma in ("foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    # Two connections that both make a new file's journal a WAL would wait for each other, so SQLite refuses one of
    # them at once, whatever the timeout: it tries again here.
    given_up = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_BUSY" and time.monotonic() < given_up:
                time.sleep(_BUSY_POLL_S)
                continue
            # A read-only file keeps the journal that it has, and can still be read.
            if error.sqlite_errorname != "SQLITE_READONLY":
                raise
        return


def _begin(connection: Connection) -> None:
    read_only = bool(connection.get_execution_options().get(_READ_ONLY))
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
    # A transaction that reads first and asks for the write lock later fails at once if somebody wrote in
    # between, whatever the timeout; so writers ask at the start, and wait.
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
