"""The dispatcher: which agents are connected to this server, and what becomes of the jobs that they are given."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from ...db.engine import Database
from ...db.models import Job
from ...errors import Busy, ServiceError, StorageError
from ..v1 import device_pb2
from .agent_link import AgentLink
from .job_changes import JobChanges
from .outcomes import Outcome
from .records import EndedStream, FleetRecords

P = ParamSpec("P")
T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_THREADS = 6
_LEASED_AT_ONCE = 32
_STORED_AT_ONCE = 64
_EXTENDED_AT_ONCE = 50
_CLEAN_S = 600.0
_STOP_S = 5.0
_STEP_S = 1.0


@dataclass(frozen=True)
class FleetConfig:
    """Times of the fleet, in seconds, and who is told of what.

    heartbeat_s: between two signs of life of an agent; a stream is ended after three without any.
    lease_s: after which a job goes back to the queue when its device is not heard of.
    poll_s: between two looks into the queue while an agent is idle; what is submitted here is seen at once.
    tend_s: between two looks for cancelled jobs, drained and removed devices; what happens here is seen at once.
    retry_s: before the database is tried again.
    keep_s: for which jobs that ended are kept.
    on_expired: told how many leases ran out, whenever some did.
    """

    heartbeat_s: float = 10.0
    lease_s: float = 30.0
    poll_s: float = 0.1
    tend_s: float = 1.0
    retry_s: float = 0.5
    keep_s: float = 7 * 86400.0
    on_expired: Callable[[int], None] = lambda _: None


class Fleet:
    """Connects agents with the queue in the database. It belongs to the event loop; the database is asked in threads.

    Any number of servers may share a database: leases keep them apart.
    """

    def __init__(self, database: Database, config: FleetConfig | None = None) -> None:
        self.config = config or FleetConfig()
        self._records = FleetRecords(database, self.config.lease_s, self.config.keep_s)
        self.changes = JobChanges()
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="milliseek-fleet")
        self._links: dict[str, AgentLink] = {}
        self._ended: dict[str, AgentLink] = {}
        self._returned: list[tuple[str, str]] = []
        self._outcomes: list[tuple[AgentLink, Outcome]] = []
        self._work = asyncio.Event()
        self._news = asyncio.Event()
        self._answers = asyncio.Event()
        self._tell_at = self._extend_at = self._clean_at = 0.0
        self._extended_at, self._clock = 0.0, _clock()
        self._leaving = self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> int:
        """How many agents are connected to this server."""
        return len(self._links)

    def start(self) -> None:
        """Begin to hand out jobs."""
        # Agents of a server that was restarted come back first, and keep what they are at.
        self._extend_at = time.monotonic() + self.config.heartbeat_s
        self._clean_at = time.monotonic() + _CLEAN_S
        self._tasks = [
            asyncio.create_task(self._forever(step), name=f"fleet {step.__name__}")
            for step in (self._dispatch, self._tend, self._store)
        ]

    def say_goodbye(self) -> None:
        """Let agents finish what they hold and come back later; watchers leave."""
        self._leaving = True
        for link in list(self._links.values()):
            link.leave("The service is going down.", reconnect=True)
        self.changes.close()

    async def close(self) -> None:
        """Store what has arrived, give back what was not sent, and stop; agents are cut off already."""
        self._stopping = True
        for event in (self._work, self._news, self._answers):
            event.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_STOP_S)
            for task in late:
                task.cancel()
        if ends := _ends([*self._ended.values(), *self._links.values()]):
            with suppress(StorageError):  # leases expire, and so does the mark of being connected
                await self.in_pool(self._records.note_ends, ends)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """There may be something to hand out."""
        self._work.set()

    def look(self) -> None:
        """Something may have happened to jobs or devices that agents must hear of."""
        self._tell_at = 0.0
        self._news.set()

    async def connect(self, device: str, capacity: int) -> AgentLink:
        """A new stream of a registered device, which ends its older one; may raise NotFound."""
        row = await self.in_pool(self._records.load, device)
        if self._leaving:
            raise ServiceError("The service is going down.", "Connect again in a while.")
        link = AgentLink(device, row.model, capacity, row.state, time.monotonic())
        if (older := self._links.get(device)) is not None:
            _end_older(older)
        self._links[device] = link
        self._news.set()
        return link

    def disconnect(self, link: AgentLink) -> None:
        """A stream is gone: what was not sent goes back, what was sent stays the device's until the lease ends."""
        link.closed = True
        self._ended[link.stream] = link
        if self._links.get(link.device) is link:
            del self._links[link.device]
        self._news.set()

    def heartbeat(self, link: AgentLink, leases: Collection[str]) -> None:
        """Note what an agent says it holds."""
        if not link.arrived:
            self._news.set()
        free = link.free
        returned = link.heartbeat(leases, time.monotonic(), 2 * self.config.heartbeat_s)
        if returned:
            self._returned += [(link.device, lease) for lease in returned]
            self._news.set()
        if link.free > free:
            self.wake()

    async def answer(self, link: AgentLink, message: device_pb2.JobOutcome) -> None:
        """Take an outcome, to be acknowledged when it is stored."""
        await link.answer(message.lease)
        self._outcomes.append((link, Outcome(link.device, message)))
        self._answers.set()

    async def reject(self, link: AgentLink, job: Job, reason: str) -> None:
        """Fail a job that could not be sent to the device."""
        assert job.lease is not None
        link.held.pop(job.lease, None)
        await self.in_pool(self._records.fail, link.device, job.lease, reason)
        self.changes.notify([job.id])

    async def in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something short with the database or the disk in a thread; dropped if cancelled before it begins."""
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: context.run(function, *args, **kwargs)
        )

    async def _forever(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping or (step == self._store and self._outcomes):
            try:
                await step()
            except StorageError as error:
                _LOG.warning("The fleet waits for the database: %s", error)
                await asyncio.sleep(self.config.retry_s)
            except Exception:  # noqa: BLE001 - a bug in one step must not end all measuring
                _LOG.exception("The fleet failed in %s", step.__name__)
                await asyncio.sleep(self.config.retry_s)

    async def _dispatch(self) -> None:
        """Hand out jobs once, then wait for more of them or for agents that are free."""
        free = [link for link in self._links.values() if link.free]
        if not free:
            await _wait(self._work)
            return
        queued = await self.in_pool(self._records.queued)
        # Who missed a heartbeat may be gone: no jobs until it is heard again.
        heard_at = time.monotonic() - 1.5 * self.config.heartbeat_s
        idle = [link for link in free if link.free and link.heard_at >= heard_at]
        wanted = [link for link in idle if link.device in queued or link.model in queued]
        if not wanted or not await self._hand_out(wanted):
            await _wait(self._work, self.config.poll_s)

    async def _hand_out(self, links: Sequence[AgentLink]) -> int:
        """Lease jobs for some of these agents, at first those with the least to do; how many were leased."""
        models = Counter(link.model for link in self._links.values())
        # Of two that do as much, the one heard of last: the other may be gone.
        chosen = sorted(links, key=lambda link: (len(link.held), -link.heard_at))[:_LEASED_AT_ONCE]
        # Devices of one model share the queue: none takes the second job before all have their first.
        asked = [(link.device, 1 if link.model and models[link.model] > 1 else link.free) for link in chosen]
        leased = await self.in_pool(self._records.lease, asked)
        unsent: list[tuple[AgentLink, Job]] = []
        for link, jobs in zip(chosen, leased, strict=True):
            for job in jobs:
                if link.leaving or link.closed:
                    unsent.append((link, job))
                else:
                    link.assign(job, time.monotonic())
        if unsent:
            await self.in_pool(self._records.release, [(link.device, job.lease or "") for link, job in unsent])
        self.changes.notify([job.id for jobs in leased for job in jobs])
        return sum(map(len, leased)) - len(unsent)

    async def _tend(self) -> None:
        """Note who is here and what they hold, and tell them what became of it; then wait."""
        await self._note_streams()
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + self.config.tend_s
            await self._tell_agents()
        if now >= self._extend_at:
            self._extend_at = now + self.config.lease_s / 5
            await self._keep_leases()
        if now >= self._clean_at:
            self._clean_at = now + _CLEAN_S
            await self.in_pool(self._records.clean)
        await _wait(self._news, self.config.tend_s)

    async def _note_streams(self) -> None:
        """Write down who came and who left, once for all."""
        ended, returned = list(self._ended.values()), list(self._returned)
        claims = [link for link in self._links.values() if not link.claimed]
        came = [link for link in self._links.values() if link.arrived and not link.known]
        if ended:
            await self.in_pool(self._records.note_ends, _ends(ended))
            for link in ended:
                del self._ended[link.stream]
        if returned:
            await self.in_pool(self._records.release, returned)
            del self._returned[: len(returned)]
            self.wake()
        if claims or came:
            claimed, holds = _streams(claims), {link.device: [*link.held, *link.answered] for link in came}
            await self.in_pool(self._records.note_arrivals, claimed, holds)
            for link in claims:
                link.claimed = True
            for link in came:
                link.known = True
            self.wake()

    async def _tell_agents(self) -> None:
        """End silent streams, and tell agents of drained devices and of jobs that are theirs no more."""
        silent_at = time.monotonic() - 3 * self.config.heartbeat_s
        for link in self._links.values():
            if link.heard_at < silent_at:
                link.end(Busy(f"The agent of '{link.device}' gave no sign of life.", "Connect again."))
        links = [link for link in self._links.values() if link.claimed and not link.closed]
        if not links:
            return
        held = {link: set(link.held) - link.answered for link in links}
        seen = await self.in_pool(self._records.see, [link.device for link in links], set().union(*held.values()))
        for link in links:
            state, stream = seen.states.get(link.device, ("removed", None))
            if state == "removed":
                link.leave(f"The device '{link.device}' was removed.", reconnect=False)
                continue
            if stream not in (None, link.stream):
                _end_older(link)
                continue
            # Meanwhile some may have been answered, or taken.
            link.drop(sorted((held[link] - seen.standing - link.answered).intersection(link.held)))
            if state == "draining" and link.state == "active":
                link.leave(f"The device '{link.device}' is being drained.", reconnect=True)
            if state == "active" and link.state == "draining":
                self.wake()
            link.state = state

    async def _keep_leases(self) -> None:
        """Extend what agents hold that were heard since the last time, then take back what nobody holds."""
        since, self._extended_at = self._extended_at, time.monotonic()
        clock, self._clock = self._clock, _clock()
        if abs(self._clock - clock) > _STEP_S:
            since = 0.0  # the clock was set: leases mean other times now, and those who are connected shall keep theirs
        links = [link for link in self._links.values() if link.claimed and not link.closed and link.heard_at >= since]
        if links:
            await self.in_pool(self._records.touch, _streams(links))
        busy = [link for link in links if link.held]
        for start in range(0, len(busy), _EXTENDED_AT_ONCE):
            part = busy[start : start + _EXTENDED_AT_ONCE]
            lost = await self.in_pool(self._records.extend, [(link.device, list(link.held)) for link in part])
            for link, leases in zip(part, lost, strict=True):
                link.drop([lease for lease in leases if lease in link.held and lease not in link.answered])
        if expired := await self.in_pool(self._records.expire):
            self.config.on_expired(expired)
            self.wake()

    async def _store(self) -> None:
        """Store the outcomes that have arrived, together."""
        if not self._outcomes:
            await _wait(self._answers)
            return
        batch = self._outcomes[:_STORED_AT_ONCE]
        await self._store_batch(batch)
        del self._outcomes[: len(batch)]

    async def _store_batch(self, batch: Sequence[tuple[AgentLink, Outcome]]) -> None:
        try:
            ids = await self.in_pool(self._records.store, [outcome for _, outcome in batch])
        except StorageError:
            raise
        except Exception:  # noqa: BLE001 - a bug that one outcome meets must not hold up the others
            if len(batch) > 1:
                for one in batch:
                    await self._store_batch([one])
                return
            link, outcome = batch[0]
            _LOG.exception("An outcome of '%s' cannot be stored: lease=%s", link.device, outcome.lease)
            link.end(ServiceError("The service failed to store an outcome.", "Its log says why."))
            return
        for link, outcome in batch:
            link.take(outcome.lease)
        self.changes.notify(ids)
        self.wake()


def _clock() -> float:
    """How far the clock on the wall is ahead of the steady one, in seconds: changes when it is set."""
    return time.time() - time.monotonic()


def _streams(links: Sequence[AgentLink]) -> dict[str, str]:
    return {link.device: link.stream for link in links}


def _ends(links: Sequence[AgentLink]) -> list[EndedStream]:
    return [EndedStream(link.device, link.stream, link.unsent()) for link in links]


def _end_older(link: AgentLink) -> None:
    link.leave(f"A newer stream of '{link.device}' was opened.", reconnect=False)


async def _wait(event: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait for an event, at most so long, and clear it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()
