"""The stream of one agent as the server sees it: what it holds, what it is to be told, when it was heard of last."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection

from ...db.models import Job
from ...errors import MilliseekError
from ..v1 import device_pb2

MAX_OUTCOMES = 16
"""Outcomes of one agent that are stored or acknowledged at a time; the next one is read after that."""

Outgoing = device_pb2.WorkResponse | Job
"""What is sent: a message, or a job, whose file is read when it is its turn."""


class AgentLink:
    """One stream; it belongs to the event loop.

    `held` maps the leases that the agent holds, as far as is known, to the time when they were sent or heard of.
    """

    def __init__(self, device: str, model: str | None, capacity: int, state: str, now: float) -> None:
        self.device = device
        self.model = model
        self.capacity = capacity
        self.state = state
        self.stream = secrets.token_hex(8)
        self.heard_at = now
        self.held: dict[str, float] = {}
        self.arrived = False
        """Whether the agent has told what it holds."""
        self.claimed = False
        """Whether the database knows that this is the stream of the device."""
        self.known = False
        """Whether what the agent lost before is back in the queue: until then it gets nothing."""
        self.leaving = False
        self.closed = False
        self.answered: set[str] = set()
        """Leases whose outcomes arrived and are not stored yet."""
        self._listed: set[str] = set()
        self._room = asyncio.Semaphore(MAX_OUTCOMES)
        self._finished = False
        self._outbox: asyncio.Queue[Outgoing | MilliseekError | None] = asyncio.Queue()
        self._unsent: dict[str, None] = {}
        self._taken: set[str] = set()

    @property
    def free(self) -> int:
        """How many jobs more it may hold now."""
        ready = self.known and not self.leaving and not self.closed and self.state == "active"
        return max(self.capacity - len(self.held), 0) if ready else 0

    async def next(self) -> Outgoing | None:
        """What is to be sent next; None at the end. Raises the error that the stream ends with."""
        item = await self._outbox.get()
        if isinstance(item, MilliseekError):
            raise item
        if isinstance(item, Job):
            self._unsent.pop(item.lease or "", None)
        elif item is not None and item.HasField("taken"):
            self._room.release()
        return item

    def heartbeat(self, leases: Collection[str], now: float, patience_s: float) -> list[str]:
        """Note what the agent says it holds; returns what it said so before and has given back unbegun.

        What was sent within `patience_s` may not have arrived there yet.
        """
        self.arrived = True
        returned = sorted(self._listed.difference(leases))
        self._taken &= set(leases)
        self._listed = set(leases) - self._taken - self.answered
        on_the_way = {lease: at for lease, at in self.held.items() if now - at < patience_s and lease not in returned}
        self.held = dict.fromkeys(self._listed, now) | on_the_way
        return returned

    def assign(self, job: Job, now: float) -> None:
        """Send a job."""
        assert job.lease is not None
        self.held[job.lease] = now
        self._unsent[job.lease] = None
        self._outbox.put_nowait(job)

    async def answer(self, lease: str) -> None:
        """Note that an outcome arrived; waits while too many others are not taken yet."""
        await self._room.acquire()
        self.answered.add(lease)
        self._listed.discard(lease)

    def take(self, lease: str) -> None:
        """Tell that an outcome is stored."""
        self.held.pop(lease, None)
        self.answered.discard(lease)
        self._taken.add(lease)
        self._outbox.put_nowait(device_pb2.WorkResponse(taken=device_pb2.OutcomeTaken(lease=lease)))
        self._end_if_done()

    def drop(self, leases: Collection[str]) -> None:
        """Tell that these leases no longer hold."""
        for lease in leases:
            self.held.pop(lease, None)
            self._listed.discard(lease)
        if leases:
            self._outbox.put_nowait(device_pb2.WorkResponse(drop=device_pb2.DropJobs(leases=leases)))
            self._end_if_done()

    def leave(self, reason: str, *, reconnect: bool) -> None:
        """Say goodbye: no further jobs, and the end once it holds none; at once if it is not to come back."""
        if not self.leaving:
            goodbye = device_pb2.Goodbye(reason=reason, reconnect=reconnect)
            self._outbox.put_nowait(device_pb2.WorkResponse(goodbye=goodbye))
        self.leaving = True
        if reconnect:
            self._end_if_done()
        else:
            self.end()

    def end(self, error: MilliseekError | None = None) -> None:
        """End the stream after what is to be sent already, with an error if one is given."""
        if not self.closed:
            self._outbox.put_nowait(error)
        self.closed = True

    def finish(self) -> None:
        """The agent says nothing more: end the stream once its outcomes are stored."""
        self._finished = True
        self._end_if_done()

    def unsent(self) -> list[str]:
        """The leases of jobs that were never sent."""
        return list(self._unsent)

    def _end_if_done(self) -> None:
        if (self._finished or (self.leaving and not self.held)) and not self.answered:
            self.end()
