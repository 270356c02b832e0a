"""Rows of a quality table, and how they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...db import spaces as queries
from ...db.engine import Database
from ...spaces.blocks import BlockChoice


@dataclass(frozen=True)
class QualityRow:
    """NSR of one sub-stage: its choices, drawn from one width window, at one resolution."""

    stage: int
    block: int
    window: int
    resolution: int
    choices: tuple[BlockChoice, ...]
    nsr: float


def store_rows(database: Database, hyperspace_id: int, teacher_sha256: str, rows: Sequence[QualityRow]) -> None:
    """Keep the rows of a cell, unless another worker was first: a cell has the rows of one training."""
    stored = [
        queries.QualityRow(r.stage, r.block, r.window, r.resolution, encode_choices(r.choices), r.nsr) for r in rows
    ]
    cells = {(row.stage, row.block) for row in rows}
    with database.session() as session:
        known = {
            (stage, block)
            for stage, block in cells
            if queries.quality_rows(session, hyperspace_id, teacher_sha256, stage=stage, block=block)
        }
        new = [row for row in stored if (row.stage, row.block) not in known]
        queries.add_quality_rows(session, hyperspace_id, teacher_sha256, new)


def stored_rows(database: Database, hyperspace_id: int, teacher_sha256: str) -> list[QualityRow]:
    """All rows of a teacher's quality table."""
    with database.session(read_only=True) as session:
        rows = queries.quality_rows(session, hyperspace_id, teacher_sha256)
        return [QualityRow(r.stage, r.block, r.window, r.resolution, decode_choices(r.sub_stage), r.nsr) for r in rows]


def encode_choices(choices: Sequence[BlockChoice]) -> str:
    """`kernel#width#expand` for each block, joined by `_` (the form of the published tables)."""
    return "_".join(f"{c.kernel}#{c.width}#{c.expand:g}" for c in choices)


def decode_choices(text: str) -> tuple[BlockChoice, ...]:
    """Inverse of `encode_choices`."""
    parts = (block.split("#") for block in text.split("_"))
    return tuple(BlockChoice(int(width), int(kernel), float(expand)) for kernel, width, expand in parts)
