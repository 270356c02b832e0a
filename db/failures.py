"""The one place where a database's own errors become sentences for the user."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from ..errors import StorageError

_SQLITE: dict[str, tuple[str, str]] = {
    "SQLITE_FULL": (
        "cannot grow: the disk is full; the change was undone.",
        "Free some space and try again.",
    ),
    "SQLITE_READONLY": (
        "cannot be written: the file or its folder is read-only.",
        "Make it writable, or name another database with --db or MILLISEEK_DB.",
    ),
    "SQLITE_BUSY": (
        "is locked by another program.",
        "Try again when that program is done; `fuser FILE` tells which one it is.",
    ),
    "SQLITE_LOCKED": ("is locked by another connection.", "Try again in a moment."),
    "SQLITE_NOTADB": (
        "is not a SQLite database.",
        "Check the path, or name another database with --db or MILLISEEK_DB.",
    ),
    "SQLITE_CORRUPT": (
        "is damaged.",
        "Restore a backup, or name another database with --db or MILLISEEK_DB.",
    ),
    "SQLITE_CANTOPEN": (
        "cannot be opened.",
        "Check that the path names a file in a folder you may write to, or use --db or MILLISEEK_DB.",
    ),
    "SQLITE_IOERR": (
        "cannot be read or written: the disk reports an error; the change was undone.",
        "Check the disk's free space and health.",
    ),
}


@contextmanager
def storage_errors(name: str, *, read_only: bool = False) -> Iterator[None]:
    """Turn errors that the user can cure into StorageError; the rest (violated constraints, bad SQL) are bugs.

    `name` says which database. In a `read_only` session a refused write is a bug as well.
    """
    try:
        yield
    except DBAPIError as error:
        if (sentence := _sentence(error)) is None or (read_only and _writes_refused(error)):
            raise
        raise StorageError(f"{name} {sentence[0]}", sentence[1]) from error
    except sqlite3.Error as error:  # from the driver itself, as backups are
        if (sentence := _sqlite_sentence(error)) is None:
            raise
        raise StorageError(f"{name} {sentence[0]}", sentence[1]) from error


def _sentence(error: DBAPIError) -> tuple[str, str] | None:
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_sentence(error.orig)
    # A server's driver has one class for all that goes wrong around a statement: connection, disk, memory.
    if isinstance(error, OperationalError | InterfaceError):
        detail = " ".join(str(error.orig).split())
        return (
            f"reports an error: {detail}.",
            "Check the address in --db or MILLISEEK_DB and the server's log.",
        )
    return None


def _sqlite_sentence(error: sqlite3.Error) -> tuple[str, str] | None:
    # Extended codes append to the name of their primary code: SQLITE_READONLY_DBMOVED, SQLITE_IOERR_WRITE.
    code = getattr(error, "sqlite_errorname", "")
    return _SQLITE.get("_".join(code.split("_")[:2]))


def _writes_refused(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorname", "") == "SQLITE_READONLY"
