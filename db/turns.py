"""Whose turn it is: sharing a device fairly among the users whose jobs wait for it.

The order is kept in numbers, not in times: a clock that was set back would let one user wait for as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .conflicts import get_or_create
from .models import Turn


def take_turns(waiting: Mapping[str, Sequence[tuple[int, int]]], last: Mapping[str, int], count: int) -> list[int]:
    """The next `count` job ids, in order: the lowest rank first, then the user served least recently, then the oldest.

    `waiting` holds each user's jobs in order as (rank, id), `last` the number of the latest turn of each.
    """
    lines = {user: deque(jobs) for user, jobs in waiting.items() if jobs}
    latest = dict(last)
    chosen: list[int] = []
    while lines and len(chosen) < count:
        user = min(lines, key=lambda user: (lines[user][0][0], latest.get(user, 0), lines[user][0][1]))
        chosen.append(lines[user].popleft()[1])
        latest[user] = max(latest.values(), default=0) + 1
        if not lines[user]:
            del lines[user]
    return chosen


def last_turns(session: Session, device: str, users: Collection[str]) -> dict[str, int]:
    """The number of the latest turn of those users whom the device has served."""
    query = select(Turn.user, Turn.number).where(Turn.device == device, Turn.user.in_(users))
    return {row.user: row.number for row in session.execute(query)}


def record_turns(session: Session, device: str, users: Sequence[str]) -> list[int]:
    """Note that the device serves these users now, one after the other; returns the numbers of these turns."""
    before = session.scalar(select(func.max(Turn.number)).where(Turn.device == device)) or 0
    numbers = [before + i for i in range(1, len(users) + 1)]
    latest = dict(zip(users, numbers, strict=True))
    for user in sorted(latest):  # one order for all servers: no deadlock
        get_or_create(session, Turn, {"device": device, "user": user}, {"number": 0}).number = latest[user]
    session.flush()
    return numbers
