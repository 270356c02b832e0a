"""Devices and targets: registering, finding, listing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import NotFound
from .conflicts import get_or_create
from .models import Device, Target


def upsert_device(session: Session, name: str, kind: str, facts: dict[str, Any]) -> Device:
    """The device `name`, inserted if new; its kind and facts become those given."""
    device = get_or_create(session, Device, {"name": name}, {"kind": kind, "facts": facts})
    device.kind = kind
    device.facts = facts
    session.flush()
    return device


def find_device(session: Session, name: str) -> Device | None:
    """The device `name`, or None."""
    return session.scalars(select(Device).where(Device.name == name)).one_or_none()


def list_devices(session: Session) -> Sequence[Device]:
    """All devices by name."""
    return session.scalars(select(Device).order_by(Device.name)).all()


def get_or_create_target(
    session: Session,
    name: str,
    *,
    device_id: int,
    runtime: str,
    precision: str,
    threads: int = 1,
    cores: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Target:
    """The target with the canonical `name`, inserted if new; an existing one keeps its settings."""
    return get_or_create(
        session,
        Target,
        {"name": name},
        {
            "device_id": device_id,
            "runtime": runtime,
            "precision": precision,
            "threads": threads,
            "cores": cores,
            "settings": settings or {},
        },
    )


def find_target(session: Session, name: str) -> Target | None:
    """The target with the canonical `name`, or None."""
    return session.scalars(select(Target).where(Target.name == name)).one_or_none()


def get_target(session: Session, name: str) -> Target:
    """The target with the canonical `name`; NotFound if the database has none."""
    if (target := find_target(session, name)) is None:
        raise NotFound(f"The target '{name}' is not known here.", f"Profile it with `milliseek profile {name}`.")
    return target


def list_targets(session: Session, device_id: int | None = None) -> Sequence[Target]:
    """All targets by name, or those of one device."""
    query = select(Target).order_by(Target.name)
    if device_id is not None:
        query = query.where(Target.device_id == device_id)
    return session.scalars(query).all()
