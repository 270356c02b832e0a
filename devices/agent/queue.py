"""The jobs that an agent holds, from the moment they arrive until the service has acknowledged what became of them.

It knows nothing of connections, and therefore outlives them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from grpc import aio

from ...rpc.v1.device_pb2 import JobAssignment, JobOutcome
from .connection import CHUNK_BYTES
from .jobs import JobRunner

_LOG = logging.getLogger(__name__)


class Transfers(Protocol):
    """Moves what is too large for a message; raises aio.AioRpcError where trying again did not help."""

    async def download(self, job: JobAssignment) -> bytes:
        """The model file of a job."""

    async def upload(self, lease: str, payload: bytes) -> str:
        """Hand over the bytes of a result; their SHA-256."""


class JobQueue:
    """Jobs are done one after the other; each lease is in one place: waiting, running, or done with an outcome.

    `changed` is set when there is news for the service. After `idle_s` seconds without a job the runner rests.
    """

    def __init__(self, runner: JobRunner, transfers: Transfers, idle_s: float) -> None:
        self.changed = asyncio.Event()
        self.outcomes: dict[str, JobOutcome] = {}
        self._runner = runner
        self._transfers = transfers
        self._idle_s = idle_s
        self._waiting: dict[str, JobAssignment] = {}
        self._running: str | None = None
        self._task: asyncio.Task[JobOutcome] | None = None
        self._arrived = asyncio.Event()
        self._open = True

    @property
    def held(self) -> list[str]:
        """Leases of the jobs that are not done yet, in the order in which they will be."""
        return [self._running, *self._waiting] if self._running else list(self._waiting)

    def accept(self, job: JobAssignment) -> None:
        """Take a job to do, once however often it comes."""
        if self._open and job.lease != self._running and job.lease not in self.outcomes:
            self._waiting.setdefault(job.lease, job)
            self._arrived.set()

    def drop(self, leases: Iterable[str]) -> None:
        """Forget jobs that others have now. Outcomes stay: the service acknowledges also those that come too late."""
        for lease in leases:
            self._waiting.pop(lease, None)
            if lease == self._running and self._task:
                self._task.cancel()
        self.changed.set()

    def acknowledge(self, lease: str) -> None:
        """Forget an outcome that has arrived."""
        self.outcomes.pop(lease, None)
        self.changed.set()

    async def run(self) -> None:
        """Do jobs until cancelled, which ends the one under way."""
        try:
            while True:
                await self._do(await self._next())
        finally:
            await asyncio.to_thread(self._runner.close)

    async def leave(self, grace_s: float) -> None:
        """Take no more jobs, and forget those that wait; give up the one under way if it is not done in time."""
        self._open = False
        self._waiting.clear()
        if (task := self._task) and (lease := self._running):
            await asyncio.wait({task}, timeout=grace_s)
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
                self.outcomes[lease] = JobOutcome(lease=lease, failure="The agent was stopped.", retry=True)
        self.changed.set()

    async def _next(self) -> JobAssignment:
        while not self._waiting:
            self._arrived.clear()
            try:
                async with asyncio.timeout(self._idle_s):
                    await self._arrived.wait()
            except TimeoutError:
                await asyncio.to_thread(self._runner.close)
        return self._waiting.pop(next(iter(self._waiting)))

    async def _do(self, job: JobAssignment) -> None:
        self._running, self._task = job.lease, asyncio.create_task(self._perform(job))
        try:
            await asyncio.wait({self._task})
        finally:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._running = None
            self.changed.set()
        if self._task.cancelled():
            _LOG.debug("dropped lease=%s target=%s kind=%s", job.lease, job.target, job.kind)
            return
        outcome = self.outcomes[job.lease] = self._task.result()
        _LOG.debug("done lease=%s target=%s kind=%s failure=%r", job.lease, job.target, job.kind, outcome.failure)

    async def _perform(self, job: JobAssignment) -> JobOutcome:
        try:
            model = job.payload or await self._transfers.download(job)
            if hashlib.sha256(model).hexdigest() != job.payload_sha256:
                return JobOutcome(lease=job.lease, failure="The model file arrived damaged.", retry=True)
            outcome, payload = await self._measure(job, model)
            if len(payload) <= CHUNK_BYTES:
                outcome.payload = payload
            else:
                outcome.payload_sha256 = await self._transfers.upload(job.lease, payload)
        except aio.AioRpcError as error:
            reason = f"The agent could not transfer a file: {error.code().name}, {error.details()}."
            return JobOutcome(lease=job.lease, failure=reason, retry=True)
        return outcome

    async def _measure(self, job: JobAssignment, model: bytes) -> tuple[JobOutcome, bytes]:
        """Do the job in a thread; when cancelled, kill its process and come back when the thread has."""
        thread = asyncio.create_task(asyncio.to_thread(self._runner.run, job, model))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            while not thread.done():
                self._runner.interrupt()  # again and again: it may be about to start its process
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({thread}, timeout=0.1)
            raise
