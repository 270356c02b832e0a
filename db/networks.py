"""Network files that milliseek was given, named by the SHA-256 of their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .conflicts import get_or_create
from .models import Model


def get_or_create_model(
    session: Session,
    sha256: str,
    *,
    format: str,  # noqa: A002
    name: str,
    info: dict[str, Any] | None = None,
) -> Model:
    """The network file `sha256`, inserted if new; an existing one keeps its name and info.

    Its artefact is recorded already.
    """
    return get_or_create(session, Model, {"sha256": sha256}, {"format": format, "name": name, "info": info or {}})


def find_model(session: Session, sha256: str) -> Model | None:
    """The network file `sha256`, or None."""
    return session.get(Model, sha256)


def list_models(session: Session) -> Sequence[Model]:
    """All network files by name."""
    return session.scalars(select(Model).order_by(Model.name, Model.sha256)).all()
