"""Predictor versions and the latency tables compiled with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .columns import utc_now
from .conflicts import get_or_create, insert_row
from .models import LatencyTable, Predictor, Target


def add_predictor(
    session: Session,
    target_id: int,
    *,
    runtime_version: str,
    artefact_sha256: str,
    held_out: dict[str, Any],
    kernels: int,
    networks: int,
    created_at: datetime | None = None,
) -> Predictor:
    """Store the next version of a target's predictor; versions count from 1.

    `artefact_sha256` is recorded already; `kernels` and `networks` count what it was fitted on. `created_at` is given
    for a predictor that was made before, elsewhere.
    """

    def make() -> Predictor:
        newest = session.scalar(select(func.max(Predictor.version)).where(Predictor.target_id == target_id))
        return Predictor(
            target_id=target_id,
            version=(newest or 0) + 1,
            runtime_version=runtime_version,
            artefact_sha256=artefact_sha256,
            held_out=held_out,
            kernels=kernels,
            networks=networks,
            created_at=created_at or utc_now(),
        )

    return insert_row(session, make, lambda: None)


def latest_predictor(session: Session, target: str) -> Predictor | None:
    """The newest predictor of the target with this canonical name, or None."""
    query = select(Predictor).join(Predictor.target).where(Target.name == target)
    return session.scalars(query.order_by(Predictor.version.desc()).limit(1)).one_or_none()


def find_predictor(session: Session, target: str, version: int) -> Predictor | None:
    """One version of a target's predictor, or None."""
    query = select(Predictor).join(Predictor.target).where(Target.name == target)
    return session.scalars(query.where(Predictor.version == version)).one_or_none()


def list_predictors(session: Session, target: str | None = None) -> Sequence[Predictor]:
    """All predictors by target and version, or those of one target."""
    query = select(Predictor).join(Predictor.target).order_by(Target.name, Predictor.version)
    if target is not None:
        query = query.where(Target.name == target)
    return session.scalars(query).all()


def find_latency_table(session: Session, predictor_id: int, space: str, fingerprint: str) -> LatencyTable | None:
    """The table of a space compiled with a predictor from the block keys `fingerprint`, or None."""
    query = select(LatencyTable).where(
        LatencyTable.predictor_id == predictor_id,
        LatencyTable.space == space,
        LatencyTable.fingerprint == fingerprint,
    )
    return session.scalars(query).one_or_none()


def add_latency_table(
    session: Session,
    predictor_id: int,
    space: str,
    fingerprint: str,
    *,
    artefact_sha256: str,
    constant_ms: float,
) -> LatencyTable:
    """Store a compiled table; if another process was faster, the one that it stored is returned."""
    return get_or_create(
        session,
        LatencyTable,
        {"predictor_id": predictor_id, "space": space, "fingerprint": fingerprint},
        {"artefact_sha256": artefact_sha256, "constant_ms": constant_ms},
    )
