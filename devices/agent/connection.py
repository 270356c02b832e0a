"""An agent's line to the service, and the calls that it makes over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

from ...client.endpoint import Endpoint
from ...errors import InvalidInput, NotFound
from ...rpc.v1 import device_pb2, device_pb2_grpc
from ..facts import DeviceFacts

CHUNK_BYTES = 1 << 20
CALL_S = 30.0
"""Seconds that the service has for a call; transfers have more, by their size."""

HOPELESS = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""What will not be cured by calling again: a wrong token or name, another program."""

_SLOWEST_BYTES_PER_S = 50_000
_KEEPALIVE = (
    # A line that is dead without saying so: found by a ping that nobody answers, or by a heartbeat that nobody takes.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)

WorkStream = aio.StreamStreamCall[device_pb2.WorkRequest, device_pb2.WorkResponse]


@dataclass(frozen=True)
class Server:
    """Where the service is, and how it is spoken to: `address`, `ca_file` and `tls` as in `client.Endpoint`."""

    address: str
    token_file: Path | None = None
    ca_file: Path | None = None
    tls: bool | None = None

    def endpoint(self) -> Endpoint:
        """With the token as it is now, as it may have been rotated; raises as Endpoint does."""
        return Endpoint(self.address, token=self._token(), ca_file=self.ca_file, tls=self.tls)

    def _token(self) -> str | None:
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            cls = NotFound if isinstance(error, FileNotFoundError) else InvalidInput
            raise cls(
                f"The token file '{self.token_file}' cannot be read: {error.strerror}.", "Check --token-file."
            ) from error


class Connection:
    """One connection to the service, a context manager; every call raises aio.AioRpcError when it fails."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._metadata = endpoint.metadata
        self._channel = endpoint.aio_channel(*_KEEPALIVE)
        self._stub: Any = device_pb2_grpc.DeviceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close(grace=None)

    async def register(self, name: str, model: str, facts: DeviceFacts) -> str:
        """Register this machine; the name that it has in targets."""
        request = device_pb2.RegisterDeviceRequest(name=name, model=model, facts=_facts_to_proto(facts))
        response = await self._stub.RegisterDevice(request, metadata=self._metadata, timeout=CALL_S)
        return str(response.device.name)

    def work(self) -> WorkStream:
        """The stream of jobs and outcomes; the caller says hello."""
        stream: WorkStream = self._stub.Work(metadata=self._metadata)
        return stream

    async def download(self, job: device_pb2.JobAssignment) -> bytes:
        """The model file of a job; cut where it is longer than announced."""
        data = bytearray()
        request = device_pb2.DownloadPayloadRequest(lease=job.lease)
        async for response in self._stub.DownloadPayload(
            request, metadata=self._metadata, timeout=_transfer_s(job.payload_bytes)
        ):
            data += response.chunk
            if len(data) > job.payload_bytes:
                break
        return bytes(data)

    async def upload(self, lease: str, payload: bytes) -> str:
        """Hand over the bytes of a large result; their SHA-256."""

        async def messages() -> AsyncIterator[device_pb2.UploadPayloadRequest]:
            header = device_pb2.UploadPayloadHeader(lease=lease, size_bytes=len(payload))
            yield device_pb2.UploadPayloadRequest(header=header)
            for start in range(0, len(payload), CHUNK_BYTES):
                yield device_pb2.UploadPayloadRequest(chunk=payload[start : start + CHUNK_BYTES])

        response = await self._stub.UploadPayload(
            messages(), metadata=self._metadata, timeout=_transfer_s(len(payload))
        )
        return str(response.sha256)


def _transfer_s(size_bytes: int) -> float:
    return CALL_S + size_bytes / _SLOWEST_BYTES_PER_S


def _facts_to_proto(facts: DeviceFacts) -> device_pb2.DeviceFacts:
    return device_pb2.DeviceFacts(
        id=facts.id,
        cpu_model=facts.cpu_model,
        architecture=facts.architecture,
        isa=facts.isa,
        cores=facts.cores,
        memory_bytes=facts.memory_bytes,
        os=facts.os,
        runtimes=dict(facts.runtimes),
    )
