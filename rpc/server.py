"""Starting and stopping the service: as a process of its own, or inside another one."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ..db.engine import Database
from ..errors import Busy
from .access.access import PLAIN, Access
from .access.address import DEFAULT_ADDRESS, check_exposure, check_free, parse_address
from .access.tls import server_credentials
from .backend import LatencyBackend
from .fleet.dispatcher import FleetConfig
from .fleet.services import NAMES, FleetServices
from .interceptor import CallInterceptor, Observe
from .limits import ServiceLimits
from .servicer import LatencyServicer
from .v1 import latency_pb2, latency_pb2_grpc

SERVICE_NAME = latency_pb2.DESCRIPTOR.services_by_name["LatencyService"].full_name
GRACE_S = 10.0
_OPTIONS = (
    # Without this a second server on the same port would silently take half of the calls.
    ("grpc.so_reuseport", 0),
    # Agents keep a stream for months: a connection that is dead without saying so is found, and agents may ping too.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


class LatencyServer:
    """One service on the running event loop: latency, health and reflection on one port.

    Create, `start` and `drain` it on the same loop; a drained server cannot be started again.
    """

    def __init__(
        self,
        backend: LatencyBackend,
        address: str = DEFAULT_ADDRESS,
        limits: ServiceLimits | None = None,
        *,
        database: Database | None = None,
        fleet: FleetConfig | None = None,
        access: Access = PLAIN,
        observe: Observe | None = None,
    ) -> None:
        """`address`: `host:port`, port 0 for any; raises `InvalidInput` if it is not on this machine and `access`
        lacks TLS or tokens. With a `database` there are devices that measure, too, with the times of `fleet`.
        `observe` is told of every call that ended."""
        limits = limits or ServiceLimits()
        self._bind = parse_address(address)
        check_exposure(self._bind, tls=access.tls is not None, tokens=access.tokens is not None)
        self._credentials = server_credentials(access.tls) if access.tls else None
        self.address = str(self._bind)
        self._executor = ThreadPoolExecutor(limits.threads, thread_name_prefix="milliseek-rpc")
        # Its import there is not marked as an export.
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = aio.server(interceptors=[CallInterceptor(access.tokens, observe)], options=_OPTIONS)
        latency_pb2_grpc.add_LatencyServiceServicer_to_server(
            LatencyServicer(backend, self._executor, limits), self._server
        )
        self._fleet = FleetServices(self._server, database, fleet, self._executor, limits) if database else None
        self._services = (SERVICE_NAME, *(NAMES if database else ()))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def start(self) -> str:
        """Bind, serve and report SERVING; return the `host:port` that was bound.

        Raises `Busy` for a taken port, `InvalidInput` for one that may not be used.
        """
        check_free(self._bind)  # gRPC gives no reason
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(self.address)
            else:
                port = self._server.add_secure_port(self.address, self._credentials)
        except RuntimeError as error:  # somebody was faster
            raise Busy(f"The latency service cannot listen on {self.address}.", "Choose another port.") from error
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self._server.start()
        if self._fleet:
            self._fleet.start()
        for service in (health.OVERALL_HEALTH, *self._services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return self.address

    async def drain(self, grace_s: float = GRACE_S) -> None:
        """Report NOT_SERVING, refuse new calls, give those under way `grace_s` seconds, then cancel them.

        Agents are told to come back later; what they finish within the grace is stored.
        """
        await self._health.enter_graceful_shutdown()
        if self._fleet:
            self._fleet.say_goodbye()
        await self._server.stop(grace_s)
        if self._fleet:
            await self._fleet.close()
        # A thread cannot be stopped: a backend call that outlasts the grace ends on its own, its answer is
        # dropped.
        self._executor.shutdown(wait=False, cancel_futures=True)


def serve(
    backend: LatencyBackend,
    address: str = DEFAULT_ADDRESS,
    *,
    limits: ServiceLimits | None = None,
    database: Database | None = None,
    fleet: FleetConfig | None = None,
    access: Access = PLAIN,
    observe: Observe | None = None,
    on_ready: Callable[[str], None] | None = None,
    grace_s: float = GRACE_S,
) -> None:
    """Serve until SIGINT or SIGTERM, then drain; call `on_ready` with the bound `host:port` once it answers.

    To be called in the main thread. Raises `InvalidInput` for an address outside this machine without TLS and
    tokens, `Busy` for a taken port.
    """

    def make() -> LatencyServer:
        return LatencyServer(backend, address, limits, database=database, fleet=fleet, access=access, observe=observe)

    asyncio.run(_serve_until_signal(make, on_ready, grace_s))


async def _serve_until_signal(
    make: Callable[[], LatencyServer], on_ready: Callable[[str], None] | None, grace_s: float
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    server = make()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        bound = await server.start()
        if on_ready:
            on_ready(bound)
        await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # a second ctrl-C ends the draining
        await server.drain(grace_s)


class InProcessServer:
    """The same service in a thread of this process, on a free loopback port; a context manager.

    The server is up once `start` returns and gone once `stop` does; `address` is its `host:port` in between.
    """

    def __init__(
        self,
        backend: LatencyBackend,
        *,
        limits: ServiceLimits | None = None,
        database: Database | None = None,
        fleet: FleetConfig | None = None,
        access: Access = PLAIN,
        observe: Observe | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.address = ""
        self._make = partial(
            LatencyServer,
            backend,
            "127.0.0.1:0",
            limits,
            database=database,
            fleet=fleet,
            access=access,
            observe=observe,
        )
        self._grace_s = grace_s
        self._thread: threading.Thread | None = None
        self._started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> str:
        """Start the server and return its address; a server starts once."""
        # A daemon, so that a program that forgets to stop its server can still end.
        self._thread = threading.Thread(target=self._run, name="milliseek-rpc-server", daemon=True)
        self._thread.start()
        self.address = self._started.result()[0]
        return self.address

    def stop(self) -> None:
        """Drain and wait until the server is gone; harmless when it is not running."""
        if self._thread is None:
            return
        _, loop, stop = self._started.result()
        if self._thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        self._thread.join()
        self._thread = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # raised again by start(), in the caller's thread
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        server = self._make()
        try:
            address = await server.start()
            self._started.set_result((address, asyncio.get_running_loop(), stop))
            await stop.wait()
        finally:
            await server.drain(self._grace_s)
