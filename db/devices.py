"""Devices and targets: registering, finding, listing, draining and removing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ..errors import InvalidInput, NotFound
from .columns import utc_now
from .conflicts import get_or_create
from .jobs import abandon_device
from .models import Device, Target
from .tokens import revoke_device_tokens

_KNOWN = Device.state != "removed"


def upsert_device(session: Session, name: str, kind: str, facts: dict[str, Any], model: str | None = None) -> Device:
    """The device `name`, inserted if new; its kind, facts and model become those given.

    One that was removed is back; one that drains goes on draining.
    """
    device = get_or_create(session, Device, {"name": name}, {"kind": kind, "facts": facts, "model": model})
    device.kind, device.facts, device.model = kind, facts, model
    if device.state == "removed":
        device.state = "active"
    session.flush()
    return device


def find_device(session: Session, name: str) -> Device | None:
    """The device `name`, or None."""
    return session.scalars(select(Device).where(Device.name == name, _KNOWN)).one_or_none()


def get_device(session: Session, name: str) -> Device:
    """The device `name`; NotFound if the database has none."""
    if (device := find_device(session, name)) is None:
        raise NotFound(f"The device '{name}' is not known here.", "`milliseek devices list` names those that are.")
    return device


def list_devices(session: Session) -> Sequence[Device]:
    """All devices by name."""
    return session.scalars(select(Device).where(_KNOWN).order_by(Device.name)).all()


def page_devices(session: Session, after_name: str = "", limit: int = 100) -> Sequence[Device]:
    """The next `limit` devices by name, after the one called `after_name`."""
    query = select(Device).where(_KNOWN, Device.name > after_name)
    return session.scalars(query.order_by(Device.name).limit(limit)).all()


def devices_serving(session: Session, name: str) -> Sequence[Device]:
    """The devices by name whose name or model is `name`: those that a job for it may go to."""
    query = select(Device).where(_KNOWN, or_(Device.name == name, Device.model == name))
    return session.scalars(query.order_by(Device.name)).all()


def set_device_state(session: Session, name: str, state: Literal["active", "draining"]) -> Device:
    """Let a device take jobs, or only finish what it holds; may raise NotFound."""
    device = get_device(session, name)
    device.state = state
    session.flush()
    return device


def touch_device(session: Session, name: str, connected_for_s: float, *, now: datetime | None = None) -> Device:
    """Note a sign of life: the device counts as connected for so many seconds more; may raise NotFound."""
    device = get_device(session, name)
    device.last_seen_at = now or utc_now()
    device.connected_until = device.last_seen_at + timedelta(seconds=connected_for_s)
    session.flush()
    return device


def remove_device(session: Session, name: str) -> None:
    """Take a device away: its jobs go to others of its model or fail, its tokens are revoked, measurements stay.

    NotFound if there is none, InvalidInput if it is this machine.
    """
    device = get_device(session, name)
    if device.kind == "local":
        raise InvalidInput(f"'{name}' is a machine that measures itself; it cannot be removed.", "Name another device.")
    device.state, device.connected_until = "removed", None
    session.flush()
    names = {device.name, device.model or device.name}
    abandon_device(session, name, [asked for asked in names if not devices_serving(session, asked)])
    revoke_device_tokens(session, name)


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
