"""DeviceService: the devices that the database knows, and the streams of their agents."""

# ruff: noqa: ARG002, N802 - methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, BinaryIO

from grpc import aio

from ...db import devices
from ...db.engine import Database
from ...db.jobs import ENDED
from ...db.models import Job
from ...db.streams import find_leased_job, find_namesake
from ...devices.facts import local_facts
from ...errors import InvalidInput, MilliseekError, NotFound, NotReady, StorageError
from ..access.auth import current_caller, require_device
from ..limits import MIB, ServiceLimits, check_chunk
from ..pages import page_size, page_start, page_token
from ..spool import Spool
from ..v1 import device_pb2, device_pb2_grpc
from .agent_link import AgentLink, Outgoing
from .convert import assignment, device_to_proto, facts_from_proto
from .dispatcher import Fleet
from .limits import (
    check_device,
    check_facts,
    check_heartbeat,
    check_hello,
    check_lease,
    check_outcome,
    check_upload,
)
from .payloads import keep_payload, record_payload

Context = aio.ServicerContext[Any, Any]

INLINE_BYTES = MIB
HELLO_S = 30.0
_LIST = "devices"


class DeviceServicer(device_pb2_grpc.DeviceServiceServicer):
    """Checks requests, and leaves the streams to the fleet."""

    def __init__(self, database: Database, fleet: Fleet, limits: ServiceLimits) -> None:
        self._database = database
        self._fleet = fleet
        self._limits = limits
        self._stores = asyncio.Semaphore(limits.stores)

    async def RegisterDevice(
        self, request: device_pb2.RegisterDeviceRequest, context: Context
    ) -> device_pb2.RegisterDeviceResponse:
        """Register a device, or refresh what it says about itself."""
        name = check_device(request.name or request.facts.id)
        if request.model:
            check_device(request.model, "model")
        check_facts(request.facts)
        require_device(name)
        device = await self._fleet.in_pool(self._register, name, request)
        return device_pb2.RegisterDeviceResponse(device=device)

    async def GetDevice(self, request: device_pb2.GetDeviceRequest, context: Context) -> device_pb2.GetDeviceResponse:
        """Tell what is known of a device; devices are told about themselves only."""
        name = check_device(request.name)
        if current_caller().scope == "device":
            require_device(name)
        return device_pb2.GetDeviceResponse(device=await self._fleet.in_pool(self._get, name))

    async def ListDevices(
        self, request: device_pb2.ListDevicesRequest, context: Context
    ) -> device_pb2.ListDevicesResponse:
        """List devices by name."""
        size, after = page_size(request.page_size), page_start(_LIST, request.page_token)
        return await self._fleet.in_pool(self._list, size, after)

    async def DrainDevice(
        self, request: device_pb2.DrainDeviceRequest, context: Context
    ) -> device_pb2.DrainDeviceResponse:
        """Let a device take no further jobs, or end that."""
        device = await self._fleet.in_pool(self._drain, check_device(request.name), request.resume)
        self._fleet.look()
        return device_pb2.DrainDeviceResponse(device=device)

    async def RemoveDevice(
        self, request: device_pb2.RemoveDeviceRequest, context: Context
    ) -> device_pb2.RemoveDeviceResponse:
        """Remove a device."""
        await self._fleet.in_pool(self._remove, check_device(request.name))
        self._fleet.look()
        self._fleet.wake()
        return device_pb2.RemoveDeviceResponse()

    async def Work(
        self, request_iterator: AsyncIterator[device_pb2.WorkRequest], context: Context
    ) -> AsyncIterator[device_pb2.WorkResponse]:
        """Serve the stream of one agent."""
        requests = aiter(request_iterator)
        try:
            async with asyncio.timeout(HELLO_S):
                first = await anext(requests, None)
        except TimeoutError as error:
            raise InvalidInput("The stream says nothing.", "Say first which device it is.") from error
        hello = check_hello(first)
        require_device(hello.device)
        link = await self._fleet.connect(hello.device, hello.capacity)
        reading = asyncio.create_task(self._read(requests, link))
        try:
            config = self._fleet.config
            welcome = device_pb2.Welcome(heartbeat_s=config.heartbeat_s, lease_s=config.lease_s)
            yield device_pb2.WorkResponse(welcome=welcome)
            while (outgoing := await link.next()) is not None:
                if (response := await self._response(link, outgoing)) is not None:
                    yield response
        finally:
            self._fleet.disconnect(link)
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def DownloadPayload(
        self, request: device_pb2.DownloadPayloadRequest, context: Context
    ) -> AsyncIterator[device_pb2.DownloadPayloadResponse]:
        """Send the model file of a job, chunk by chunk."""
        job = await self._job(request.lease)
        file = await self._fleet.in_pool(self._open, job.payload_sha256)
        try:
            while chunk := await self._fleet.in_pool(file.read, INLINE_BYTES):
                yield device_pb2.DownloadPayloadResponse(chunk=chunk)
        finally:
            file.close()

    async def UploadPayload(
        self, request_iterator: AsyncIterator[device_pb2.UploadPayloadRequest], context: Context
    ) -> device_pb2.UploadPayloadResponse:
        """Keep the bytes of a result that is too large for the stream."""
        requests = aiter(request_iterator)
        header = check_upload(await anext(requests, None), self._limits.upload_bytes)
        job = await self._job(header.lease)
        if job.state in ENDED or job.kind != "optimise":
            raise NotReady("The job of this lease takes no bytes.", "Drop it.")
        with Spool(header.size_bytes) as spool:
            async for request in requests:
                await self._fleet.in_pool(spool.write, check_chunk(request, self._limits))
            async with self._stores:
                return device_pb2.UploadPayloadResponse(sha256=await self._fleet.in_pool(self._keep, spool))

    async def _read(self, requests: AsyncIterator[device_pb2.WorkRequest], link: AgentLink) -> None:
        """Take what an agent says, until it says nothing more or something wrong."""
        try:
            async for request in requests:
                link.heard_at = time.monotonic()
                match request.WhichOneof("message"):
                    case "heartbeat":
                        self._fleet.heartbeat(link, check_heartbeat(request.heartbeat))
                    case "outcome":
                        await self._fleet.answer(link, check_outcome(request.outcome))
                    case _:
                        raise InvalidInput("A message of the stream says nothing.", "Send heartbeats and outcomes.")
            link.finish()
        except MilliseekError as error:
            link.end(error)
        except BaseException:
            link.end()
            raise

    async def _response(self, link: AgentLink, outgoing: Outgoing) -> device_pb2.WorkResponse | None:
        """The message to be sent; None for a job whose file is lost."""
        if not isinstance(outgoing, Job):
            return outgoing
        if outgoing.payload_bytes > INLINE_BYTES:
            return assignment(outgoing, b"")
        try:
            payload = await self._fleet.in_pool(self._database.artefacts.read, outgoing.payload_sha256)
        except (NotFound, StorageError) as error:
            await self._fleet.reject(link, outgoing, error.message)
            return None
        return assignment(outgoing, payload)

    async def _job(self, lease: str) -> Job:
        """The job of a lease, which must be the caller's."""
        job = await self._fleet.in_pool(self._leased, check_lease(lease))
        require_device(job.lease_device or "")
        return job

    def _register(self, name: str, request: device_pb2.RegisterDeviceRequest) -> device_pb2.Device:
        facts = facts_from_proto(request.facts)
        with self._database.session() as session:
            known = devices.find_device(session, name)
            if known is not None and known.kind not in ("agent", "local"):
                raise InvalidInput(f"'{name}' is {known.kind} already, not an agent.", "Give the agent another --name.")
            # Otherwise a device could take the jobs that are meant for another one.
            if (other := find_namesake(session, name, request.model)) is not None:
                raise InvalidInput(
                    f"'{name}' or '{request.model}' is the name of {other} or of its model, and cannot be both.",
                    "Choose another --name or --model.",
                )
            # This machine may run an agent too, and stays this machine.
            kind = "local" if known is not None and known.kind == "local" and name == local_facts().id else "agent"
            return device_to_proto(devices.upsert_device(session, name, kind, facts, request.model or None))

    def _get(self, name: str) -> device_pb2.Device:
        with self._database.session(read_only=True) as session:
            return device_to_proto(devices.get_device(session, name))

    def _list(self, size: int, after: str) -> device_pb2.ListDevicesResponse:
        with self._database.session(read_only=True) as session:
            found = devices.page_devices(session, after, size + 1)
        more = page_token(_LIST, found[size - 1].name) if len(found) > size else ""
        return device_pb2.ListDevicesResponse(devices=map(device_to_proto, found[:size]), next_page_token=more)

    def _drain(self, name: str, resume: bool) -> device_pb2.Device:
        with self._database.session() as session:
            return device_to_proto(devices.set_device_state(session, name, "active" if resume else "draining"))

    def _remove(self, name: str) -> None:
        with self._database.session() as session:
            devices.remove_device(session, name)

    def _leased(self, lease: str) -> Job:
        with self._database.session(read_only=True) as session:
            job = find_leased_job(session, lease)
        if job is None:
            raise NotFound("No job has this lease.", "Drop it: the job was given to another device, or is gone.")
        return job

    def _open(self, sha256: str) -> BinaryIO:
        path = self._database.artefacts.path(sha256)
        try:
            return path.open("rb")
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error

    def _keep(self, spool: Spool) -> str:
        data = spool.read()
        sha256 = keep_payload(self._database.artefacts, data)
        with self._database.session() as session:
            record_payload(session, self._database.artefacts, sha256, len(data))
        return sha256
