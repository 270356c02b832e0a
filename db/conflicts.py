"""Inserting what another process may be inserting at the same moment.

All helpers try, and on a violated constraint read again what the other one wrote; each try is a savepoint, so
that the caller's transaction survives. No statement here is special to one database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .models import Base

Row = TypeVar("Row", bound=Base)
Key = TypeVar("Key")

_TRIES = 20  # each failure means that somebody else succeeded; this many in a row is a bug
_CHUNK = 500  # SQLite's oldest limit is 999 parameters a statement


def get_or_create(session: Session, model: type[Row], key: Mapping[str, Any], values: Mapping[str, Any]) -> Row:
    """The one row whose columns equal `key`, else a new one with `key` and `values`."""
    query = select(model).filter_by(**key)
    return insert_row(session, lambda: model(**key, **values), lambda: session.scalars(query).one_or_none())


def insert_row(session: Session, make: Callable[[], Row], find: Callable[[], Row | None]) -> Row:
    """What `find` returns, else what `make` returns, inserted; after a conflict both are asked again."""
    tries = 0
    while (row := find()) is None:
        tries += 1
        row = make()
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            if tries == _TRIES:
                raise
        else:
            break
    return row


def insert_missing(
    session: Session,
    model: type[Base],
    rows: Mapping[Key, Mapping[str, Any]],
    find: Callable[[Sequence[Key]], Mapping[Key, int]],
) -> dict[Key, int]:
    """Ids of all `rows` by key, after inserting in bulk those that `find` does not know.

    `find` maps those keys of a list that exist to their ids; a key stands for what is unique in the table.
    """
    ids = dict(find(list(rows)))
    tries = 0
    while missing := [key for key in rows if key not in ids]:
        tries += 1
        try:
            with session.begin_nested():
                session.execute(insert(model), [rows[key] for key in missing])
        except IntegrityError:
            if tries == _TRIES:
                raise
        ids.update(find(missing))
    return ids


def chunked(values: Sequence[Key]) -> Iterator[Sequence[Key]]:
    """`values` in pieces that fit one `IN (...)`."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
