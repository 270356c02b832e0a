"""A stand-in of the service: real gRPC on loopback, which says what the test says; and agents that talk to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Self

import grpc
import pytest

from milliseek.devices.agent.agent import Agent
from milliseek.devices.agent.connection import Server
from milliseek.devices.protocol import ProtocolConfig
from milliseek.errors import MilliseekError, Unauthenticated
from milliseek.rpc.status import status_from_error
from milliseek.rpc.v1 import device_pb2, device_pb2_grpc

TARGET = "board/onnxruntime/fp32"
WAIT_S = 60
MIB = 1 << 20
Job = device_pb2.JobAssignment


class Service(device_pb2_grpc.DeviceServiceServicer):
    """Remembers all that agents say; tells them what the test says. A context manager that is up in between."""

    def __init__(self, token: str = "", credentials: grpc.ServerCredentials | None = None) -> None:
        self.token = token
        self.credentials = credentials
        self.acknowledges = True
        self.registered: list[device_pb2.RegisterDeviceRequest] = []
        self.said: list[tuple[int, device_pb2.WorkRequest]] = []  # the number of the stream, and the message
        self.streams = 0
        self.open: set[int] = set()
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.port = 0
        self._news = threading.Condition()
        self._outbox: SimpleQueue[device_pb2.WorkResponse | None] = SimpleQueue()

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        device_pb2_grpc.add_DeviceServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"  # after a restart the same one
        if self.credentials:
            self.port = self._server.add_secure_port(address, self.credentials)
        else:
            self.port = self._server.add_insecure_port(address)
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._outbox.put(None)
        self._server.stop(None).wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        with self._news:
            assert self._news.wait_for(condition, WAIT_S), self.said
            return condition()

    def assign(self, *jobs: Job) -> None:
        for job in jobs:
            self.tell(job=job)

    def tell(self, **message: Any) -> None:
        self._outbox.put(device_pb2.WorkResponse(**message))

    def outcomes(self, lease: str) -> list[device_pb2.JobOutcome]:
        return [said.outcome for _, said in self.said if said.outcome.lease == lease]

    def outcome(self, lease: str) -> device_pb2.JobOutcome:
        return self.wait_for(lambda: self.outcomes(lease))[0]

    def held(self) -> list[str] | None:
        """The leases of the last heartbeat."""
        beats = [list(said.heartbeat.leases) for _, said in self.said if said.HasField("heartbeat")]
        return beats[-1] if beats else None

    def RegisterDevice(self, request: Any, context: grpc.ServicerContext) -> device_pb2.RegisterDeviceResponse:  # noqa: N802
        self._check(context)
        self.registered.append(request)
        return device_pb2.RegisterDeviceResponse(device=device_pb2.Device(name=request.name or request.facts.id))

    def Work(self, requests: Any, context: grpc.ServicerContext) -> Iterator[device_pb2.WorkResponse]:  # noqa: N802
        self._check(context)
        outbox = self._outbox = SimpleQueue()
        self.streams += 1
        threading.Thread(target=self._listen, args=(requests, outbox, self.streams), daemon=True).start()
        yield device_pb2.WorkResponse(welcome=device_pb2.Welcome(heartbeat_s=0.1, lease_s=10))
        while (response := outbox.get()) is not None:
            yield response

    def DownloadPayload(self, request: Any, context: Any) -> Iterator[device_pb2.DownloadPayloadResponse]:  # noqa: N802
        self._check(context)
        file = self.files[request.lease]
        for start in range(0, len(file), MIB):
            yield device_pb2.DownloadPayloadResponse(chunk=file[start : start + MIB])

    def UploadPayload(self, requests: Any, context: grpc.ServicerContext) -> device_pb2.UploadPayloadResponse:  # noqa: N802
        self._check(context)
        header = next(requests).header
        chunks = [request.chunk for request in requests]
        assert max(map(len, chunks)) <= MIB
        assert header.size_bytes == sum(map(len, chunks))
        sha256 = hashlib.sha256(b"".join(chunks)).hexdigest()
        self.uploads[sha256] = b"".join(chunks)
        return device_pb2.UploadPayloadResponse(sha256=sha256)

    def _listen(self, requests: Any, outbox: SimpleQueue[device_pb2.WorkResponse | None], stream: int) -> None:
        self.open.add(stream)
        try:
            for request in requests:
                if self.acknowledges and request.HasField("outcome"):
                    taken = device_pb2.OutcomeTaken(lease=request.outcome.lease)
                    outbox.put(device_pb2.WorkResponse(taken=taken))
                with self._news:
                    self.said.append((stream, request))
                    self._news.notify_all()
        except grpc.RpcError:
            pass  # the agent or this service broke it off
        with self._news:
            self.open.remove(stream)
            self._news.notify_all()
        outbox.put(None)

    def _check(self, context: grpc.ServicerContext) -> None:
        if self.token and ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            status = status_from_error(Unauthenticated("There is no such token.", "Set MILLISEEK_TOKEN."))
            context.set_trailing_metadata(status.trailing_metadata)
            context.abort(status.code, status.message)


class Running:
    """An agent in a thread of this process."""

    def __init__(self, service: Service, config: ProtocolConfig, **options: Any) -> None:
        self.error: MilliseekError | None = None
        self._agent = Agent(Server(service.address), "board", config=config, first_pause_s=0.05, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._agent.run())
        except MilliseekError as error:
            self.error = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._agent.stop)
        self.join()

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def new_service() -> type[Service]:
    return Service


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@pytest.fixture
def start(service: Service, quick: ProtocolConfig) -> Iterator[Callable[..., Running]]:
    """Start an agent and wait until it says that it holds nothing."""
    agents: list[Running] = []

    def start_one(config: ProtocolConfig = quick, **options: Any) -> Running:
        agents.append(Running(service, config, **options))
        service.wait_for(lambda: service.held() == [])
        return agents[-1]

    yield start_one
    for agent in agents:
        agent.stop()


@pytest.fixture
def job(onnx_models: dict[str, Callable[[], bytes]]) -> Callable[..., Job]:
    def make(lease: str, model: str | bytes = "convolution", kind: str = "measure", **fields: Any) -> Job:
        payload = model if isinstance(model, bytes) else onnx_models[model]()
        options = {"measure": {"optimise": True, "visits": 2}, "optimise": {"hollow": False}, "shapes": {"run": True}}
        defaults = {
            "target": TARGET,
            "options_json": json.dumps(options.get(kind, {})),
            "payload": payload,
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
            "payload_bytes": len(payload),
            "time_limit_s": 30.0,
        }
        return Job(lease=lease, kind=kind, **defaults | fields)

    return make
