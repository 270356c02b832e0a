"""How much there is of things, for those who watch over the service."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .columns import utc_now
from .models import Device, Job


def job_counts(session: Session) -> dict[str, int]:
    """Jobs by state; states without any are left out, and jobs that ended long ago are gone."""
    return {row[0]: row[1] for row in session.execute(select(Job.state, func.count()).group_by(Job.state))}


def connected_devices(session: Session) -> int:
    """Devices with an agent that is connected to any server of this database."""
    connected = select(func.count()).select_from(Device).where(Device.connected_until > utc_now())
    return session.scalar(connected) or 0
