"""Hyperspaces, spaces, subnets and quality tables."""

from __future__ import annotations

import pytest

from milliseek.db import spaces
from milliseek.db.spaces import QualityRow
from milliseek.errors import NotFound


def test_hyperspace_and_space_are_created_once(stock) -> None:
    with stock.database.session() as session:
        hyperspace = spaces.get_or_create_hyperspace(session, "small32", {"changed": True})
        assert (hyperspace.id, hyperspace.definition) == (stock.hyperspace_id, {"stages": 4})
        space = spaces.get_or_create_space(session, "small32-1511-0212", hyperspace.id)
        assert space.id == stock.space_id
        spaces.get_or_create_space(session, "small32-2222-0000", hyperspace.id)
    with stock.database.session(read_only=True) as session:
        listed = spaces.list_spaces(session)
        assert spaces.get_space(session, "small32-2222-0000") is listed[1]
        assert spaces.find_space(session, "small32-9999-0000") is None
        with pytest.raises(NotFound, match="milliseek spaces evolve"):
            spaces.get_space(session, "small32-9999-0000")
    assert [space.encoding for space in listed] == ["small32-1511-0212", "small32-2222-0000"]
    assert listed[0].hyperspace.name == "small32"


def test_one_encoding_is_another_subnet_in_another_space(stock) -> None:
    with stock.database.session() as session:
        other = spaces.get_or_create_space(session, "small32-2222-0000", stock.hyperspace_id)
        here = spaces.get_or_create_subnet(session, stock.space_id, "d1#2", macs=5 * 10**9, params=7)
        there = spaces.get_or_create_subnet(session, other.id, "d1#2", macs=8, params=9)
        assert spaces.get_or_create_subnet(session, stock.space_id, "d1#2", macs=0, params=0) is here
    with stock.database.session(read_only=True) as session:
        found = spaces.find_subnet(session, other.id, "d1#2")
        assert spaces.find_subnet(session, other.id, "d9") is None
    assert (here.macs, here.params) == (5 * 10**9, 7)
    assert (found.id, found.macs, found.space.encoding) == (there.id, 8, "small32-2222-0000")


def rows(nsr: float, count: int = 3) -> list[QualityRow]:
    return [
        QualityRow(stage, block, 0, 32, f"d1w{width}", nsr)
        for stage in (1, 2)
        for block in (0, 5)
        for width in range(count)
    ]


def test_quality_table_comes_back_whole_or_by_cell(stock) -> None:
    table = (stock.hyperspace_id, stock.artefact)
    with stock.database.session() as session:
        spaces.add_quality_rows(session, *table, rows(0.5))
        spaces.add_quality_rows(session, *table, [])
    with stock.database.session(read_only=True) as session:
        assert spaces.quality_rows(session, *table) == rows(0.5)
        cell = spaces.quality_rows(session, *table, stage=1, block=5, window=0)
        assert spaces.quality_rows(session, stock.hyperspace_id, stock.model) == []
    assert [(row.stage, row.block, row.sub_stage) for row in cell] == [
        (1, 5, "d1w0"), (1, 5, "d1w1"), (1, 5, "d1w2")
    ]  # fmt: skip


def test_repeated_sub_stage_gets_the_new_value(stock) -> None:
    table = (stock.hyperspace_id, stock.artefact)
    with stock.database.session() as session:
        spaces.add_quality_rows(session, *table, rows(0.5, count=2))
    with stock.database.session() as session:
        spaces.add_quality_rows(session, *table, rows(0.9) + rows(0.4))
    with stock.database.session(read_only=True) as session:
        found = spaces.quality_rows(session, *table)
    assert sorted(found, key=lambda row: row.key) == sorted(rows(0.4), key=lambda row: row.key)
