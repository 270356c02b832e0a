"""Hyperspaces, spaces, subnets and quality tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from ..errors import NotFound
from .conflicts import get_or_create, insert_missing
from .models import Hyperspace, Quality, Space, Subnet

_Key = tuple[int, int, int, int, str]


@dataclass(frozen=True)
class QualityRow:
    """One sub-stage of a (stage, block, window) cell at one input resolution; `nsr`: lower is better."""

    stage: int
    block: int
    window: int
    resolution: int
    sub_stage: str
    nsr: float

    @property
    def key(self) -> _Key:
        """What is unique within one hyperspace and teacher."""
        return (self.stage, self.block, self.window, self.resolution, self.sub_stage)


_KEY_COLUMNS = (Quality.stage, Quality.block, Quality.window, Quality.resolution, Quality.sub_stage)


def get_or_create_hyperspace(session: Session, name: str, definition: dict[str, Any]) -> Hyperspace:
    """The hyperspace `name`, inserted if new; an existing one keeps its definition."""
    return get_or_create(session, Hyperspace, {"name": name}, {"definition": definition})


def list_hyperspaces(session: Session) -> Sequence[Hyperspace]:
    """All hyperspaces in the order they were stored."""
    return session.scalars(select(Hyperspace).order_by(Hyperspace.id)).all()


def get_or_create_space(session: Session, encoding: str, hyperspace_id: int) -> Space:
    """The space with this encoding, inserted if new."""
    return get_or_create(session, Space, {"encoding": encoding}, {"hyperspace_id": hyperspace_id})


def find_space(session: Session, encoding: str) -> Space | None:
    """The space with this encoding, or None."""
    return session.scalars(select(Space).where(Space.encoding == encoding)).one_or_none()


def get_space(session: Session, encoding: str) -> Space:
    """The space with this encoding; NotFound if the database has none."""
    if (space := find_space(session, encoding)) is None:
        raise NotFound(f"There is no space '{encoding}' here.", "Find one with `milliseek spaces evolve`.")
    return space


def list_spaces(session: Session) -> Sequence[Space]:
    """All spaces in the order they were stored."""
    return session.scalars(select(Space).order_by(Space.id)).all()


def get_or_create_subnet(session: Session, space_id: int, encoding: str, *, macs: int, params: int) -> Subnet:
    """One network of a space, inserted if new."""
    return get_or_create(
        session, Subnet, {"space_id": space_id, "encoding": encoding}, {"macs": macs, "params": params}
    )


def find_subnet(session: Session, space_id: int, encoding: str) -> Subnet | None:
    """One network of a space by its encoding, or None."""
    query = select(Subnet).where(Subnet.space_id == space_id, Subnet.encoding == encoding)
    return session.scalars(query).one_or_none()


def add_quality_rows(session: Session, hyperspace_id: int, teacher_sha256: str, rows: Iterable[QualityRow]) -> None:
    """Store rows of a quality table in bulk; a sub-stage that is there already gets the new NSR."""
    table = {"hyperspace_id": hyperspace_id, "teacher_sha256": teacher_sha256}
    by_key = {row.key: row for row in rows}
    cells = {(stage, block, window) for stage, block, window, _, _ in by_key}

    def find(keys: Sequence[_Key]) -> dict[_Key, int]:
        wanted = set(keys)
        found: dict[_Key, int] = {}
        for cell in cells:
            query = select(Quality.id, *_KEY_COLUMNS).where(*_in_cell(hyperspace_id, teacher_sha256, *cell))
            found.update({cast("_Key", tuple(key)): id_ for id_, *key in session.execute(query)})
        return {key: id_ for key, id_ in found.items() if key in wanted}

    known = find(list(by_key))
    if known:
        session.execute(update(Quality), [{"id": id_, "nsr": by_key[key].nsr} for key, id_ in known.items()])
    new = {key: {**table, **asdict(row)} for key, row in by_key.items() if key not in known}
    insert_missing(session, Quality, new, find)


def quality_rows(
    session: Session,
    hyperspace_id: int,
    teacher_sha256: str,
    *,
    stage: int | None = None,
    block: int | None = None,
    window: int | None = None,
) -> list[QualityRow]:
    """Rows of the quality table of a hyperspace and teacher in the order they were stored, or of one cell."""
    in_cell = _in_cell(hyperspace_id, teacher_sha256, stage, block, window)
    query = select(*_KEY_COLUMNS, Quality.nsr).where(*in_cell).order_by(Quality.id)
    return [QualityRow(*row) for row in session.execute(query)]


def _in_cell(
    hyperspace_id: int, teacher_sha256: str, stage: int | None, block: int | None, window: int | None
) -> list[ColumnElement[bool]]:
    cell = ((Quality.stage, stage), (Quality.block, block), (Quality.window, window))
    return [
        Quality.hyperspace_id == hyperspace_id,
        Quality.teacher_sha256 == teacher_sha256,
        *(column == value for column, value in cell if value is not None),
    ]
