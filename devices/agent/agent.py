"""The agent: a machine that takes measuring jobs from a latency service and reports what came out.

It keeps one stream to the service and survives its loss: the jobs that it holds stay, and outcomes that the service has
not acknowledged are sent again over the next one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import grpc
from grpc import aio

from ... import __version__
from ...errors import NotReady
from ...rpc.v1.device_pb2 import Goodbye, Heartbeat, Hello, JobAssignment, WorkRequest, WorkResponse
from ..conditions import cpu_mhz, temperature_c
from ..facts import local_facts
from ..protocol import ProtocolConfig
from .connection import CALL_S, HOPELESS, Connection, Server, WorkStream
from .jobs import JobRunner
from .queue import JobQueue

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Seconds before connecting again, the first time and at most."""

GRACE_S = 20.0
_STEADY_S = 60.0
_PARTING_S = 5.0
_TRANSFERS = 5
_LEAST_HEARTBEAT_S = 0.05
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
_LOG = logging.getLogger(__name__)

T = TypeVar("T")


class Agent:
    """Call `run` once, on a running event loop; `stop` ends it in order.

    `name`: what the device is called in targets, by default the stable id of the machine; `model`: the name that it
    shares with others like it; `capacity`: jobs to hold at a time, 1 to 64, one of which is measured.
    """

    def __init__(
        self,
        server: Server,
        name: str = "",
        model: str = "",
        *,
        capacity: int = 8,
        config: ProtocolConfig | None = None,
        first_pause_s: float = FIRST_PAUSE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._server = server
        self._name = name
        self._model = model
        self._capacity = capacity
        self._first_pause_s = first_pause_s
        self._grace_s = grace_s
        config = config or ProtocolConfig()
        self._queue = JobQueue(JobRunner(config), self, idle_s=config.probe_horizon_s)
        self._line: Connection | None = None
        self._connected = asyncio.Event()
        self._stopping = asyncio.Event()
        self._parting = False
        self._told = ""

    def stop(self) -> None:
        """Finish the job under way, or give it up after `grace_s` seconds, deliver what is done, and leave."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`.

        Raises what trying again cannot cure: Unauthenticated, PermissionDenied, InvalidInput; NotReady when the service
        wants no more of this device.
        """
        connection = asyncio.create_task(self._stay_connected())
        jobs = asyncio.create_task(self._queue.run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({connection, jobs, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                _LOG.info("stopping device=%s", self._name)
                await self._queue.leave(self._grace_s if self._connected.is_set() else 0.0)
                if self._connected.is_set():
                    await asyncio.wait({connection}, timeout=2 * _PARTING_S)
        finally:
            await _end(connection, jobs, stopping)
        for task in (connection, jobs):
            if not task.cancelled():
                task.result()

    async def download(self, job: JobAssignment) -> bytes:
        """The model file of a job, over this connection or the next ones."""
        return await self._transfer(lambda line: line.download(job))

    async def upload(self, lease: str, payload: bytes) -> str:
        """Hand over a large result, over this connection or the next ones; its SHA-256."""
        return await self._transfer(lambda line: line.upload(lease, payload))

    async def _transfer(self, call: Callable[[Connection], Awaitable[T]]) -> T:
        failures = 0
        while True:
            await self._connected.wait()
            assert self._line is not None
            try:
                return await call(self._line)
            except aio.AioRpcError as error:
                failures += 1
                if failures == _TRANSFERS or error.code() not in _PASSING:
                    raise
            except aio.UsageError:  # the connection was closed a moment ago
                pass
            await asyncio.sleep(self._first_pause_s)

    async def _stay_connected(self) -> None:
        loop, waits = asyncio.get_running_loop(), pauses(self._first_pause_s)
        while not self._stopping.is_set():
            begun = loop.time()
            endpoint = self._server.endpoint()
            try:
                async with Connection(endpoint) as line:
                    await self._work(line)
                reason = "The stream ended."
            except aio.AioRpcError as error:
                found = endpoint.error(error, CALL_S)
                if error.code() in HOPELESS:
                    raise found from error
                reason = found.message
            except TimeoutError:
                reason = "The service does not say welcome."
            if self._stopping.is_set():
                return
            if reason != self._told:
                _LOG.warning("disconnected server=%s reason=%r; trying again", self._server.address, reason)
                self._told = reason
            if loop.time() - begun > _STEADY_S:
                waits = pauses(self._first_pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(next(waits)):
                    await self._stopping.wait()

    async def _work(self, line: Connection) -> None:
        """From registering to the end of the stream. TimeoutError if there is no welcome."""
        self._name = await line.register(self._name, self._model, local_facts())
        stream = line.work()
        hello = Hello(device=self._name, capacity=self._capacity, agent_version=__version__)
        await stream.write(WorkRequest(hello=hello))
        async with asyncio.timeout(CALL_S):
            first = await _next(stream)
        if first is None:
            return
        if not first.HasField("welcome"):
            self._heed(first.goodbye)
            return
        heartbeat_s = max(first.welcome.heartbeat_s, _LEAST_HEARTBEAT_S)
        _LOG.info("connected server=%s device=%s heartbeat_s=%g", self._server.address, self._name, heartbeat_s)
        self._line, self._parting, self._told = line, False, ""
        reader = asyncio.create_task(self._read(stream))
        writer = asyncio.create_task(self._write(stream, heartbeat_s))
        self._connected.set()
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({reader}, timeout=_PARTING_S)
        finally:
            self._connected.clear()
            await _end(reader, writer)
        for task in (writer, reader):
            if not task.cancelled():
                task.result()

    async def _read(self, stream: WorkStream) -> None:
        while (response := await _next(stream)) is not None:
            match response.WhichOneof("message"):
                case "job":
                    self._queue.accept(response.job)
                case "taken":
                    self._queue.acknowledge(response.taken.lease)
                case "drop":
                    self._queue.drop(response.drop.leases)
                case "goodbye":
                    self._heed(response.goodbye)

    def _heed(self, goodbye: Goodbye) -> None:
        if not goodbye.reconnect:
            raise NotReady(
                f"The service at {self._server.address} wants no more of '{self._name}': {goodbye.reason}",
                "If another agent has this name, give this one its own with --name; "
                "if the device was removed, start it again with a new token.",
            )
        _LOG.info("goodbye server=%s reason=%r", self._server.address, goodbye.reason)
        self._parting = True
        self._queue.changed.set()

    async def _write(self, stream: WorkStream, heartbeat_s: float) -> None:
        """Send outcomes as they come, first those of earlier streams, and a heartbeat whenever it is time."""
        loop, queue, sent, due = asyncio.get_running_loop(), self._queue, set[str](), 0.0
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):  # the reader learns why
            while True:
                queue.changed.clear()
                for lease, outcome in list(queue.outcomes.items()):
                    if lease not in sent:
                        sent.add(lease)
                        await stream.write(WorkRequest(outcome=outcome))
                if loop.time() >= due:
                    due = loop.time() + heartbeat_s
                    # What is no longer listed, and not answered, counts as given back: list what awaits its receipt.
                    leases = [*queue.held, *queue.outcomes]
                    beat = Heartbeat(leases=leases, temperature_c=temperature_c(), cpu_mhz=cpu_mhz())
                    await stream.write(WorkRequest(heartbeat=beat))
                leaving = self._parting or self._stopping.is_set()
                if leaving and not queue.held and not queue.outcomes:
                    await stream.write(WorkRequest(heartbeat=Heartbeat()))
                    await stream.done_writing()
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await queue.changed.wait()


def pauses(first_s: float) -> Iterator[float]:
    """Seconds before each next attempt: doubled, and by a random share less, as a fleet must not come all at once."""
    longest_s = first_s
    while True:
        yield longest_s * random.uniform(0.5, 1)
        longest_s = min(2 * longest_s, LONGEST_PAUSE_S)


async def _next(stream: WorkStream) -> WorkResponse | None:
    """The next message; None at the end of the stream."""
    response = await stream.read()
    return response if isinstance(response, WorkResponse) else None


async def _end(*tasks: asyncio.Task[object]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
