"""Starting and stopping the service: as a process of its own, or inside another one."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ..errors import Busy
from .address import DEFAULT_ADDRESS, check_free, loopback_address
from .backend import LatencyBackend
from .interceptor import ErrorInterceptor
from .limits import ServiceLimits
from .servicer import LatencyServicer
from .v1 import latency_pb2, latency_pb2_grpc

SERVICE_NAME = latency_pb2.DESCRIPTOR.services_by_name["LatencyService"].full_name
GRACE_S = 10.0
_OPTIONS = (
    # Without this a second server on the same port would silently take half of the calls.
    ("grpc.so_reuseport", 0),
)


class LatencyServer:
    """One service on the running event loop: latency, health and reflection on one port.

    Create, `start` and `drain` it on the same loop; a drained server cannot be started again.
    """

    def __init__(
        self, backend: LatencyBackend, address: str = DEFAULT_ADDRESS, limits: ServiceLimits | None = None
    ) -> None:
        """`address`: `host:port` on this machine, port 0 for any; raises `InvalidInput` for any other."""
        limits = limits or ServiceLimits()
        self.address = loopback_address(address)
        self._executor = ThreadPoolExecutor(limits.threads, thread_name_prefix="milliseek-rpc")
        # Its import there is not marked as an export.
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = aio.server(interceptors=[ErrorInterceptor()], options=_OPTIONS)
        latency_pb2_grpc.add_LatencyServiceServicer_to_server(
            LatencyServicer(backend, self._executor, limits), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> str:
        """Bind, serve and report SERVING; return the `host:port` that was bound.

        Raises `Busy` for a taken port, `InvalidInput` for one that may not be used.
        """
        check_free(self.address)  # gRPC gives no reason
        try:
            port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:  # somebody was faster
            raise Busy(f"The latency service cannot listen on {self.address}.", "Choose another port.") from error
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self._server.start()
        for service in (health.OVERALL_HEALTH, SERVICE_NAME):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return self.address

    async def drain(self, grace_s: float = GRACE_S) -> None:
        """Report NOT_SERVING, refuse new calls, give those under way `grace_s` seconds, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        # A thread cannot be stopped: a backend call that outlasts the grace ends on its own, its answer is
        # dropped.
        self._executor.shutdown(wait=False, cancel_futures=True)


def serve(
    backend: LatencyBackend,
    address: str = DEFAULT_ADDRESS,
    *,
    limits: ServiceLimits | None = None,
    on_ready: Callable[[str], None] | None = None,
    grace_s: float = GRACE_S,
) -> None:
    """Serve until SIGINT or SIGTERM, then drain; call `on_ready` with the bound `host:port` once it answers.

    To be called in the main thread. Raises `InvalidInput` for an address outside this machine, `Busy` for a
    taken port.
    """
    asyncio.run(_serve_until_signal(backend, address, limits, on_ready, grace_s))


async def _serve_until_signal(
    backend: LatencyBackend,
    address: str,
    limits: ServiceLimits | None,
    on_ready: Callable[[str], None] | None,
    grace_s: float,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    server = LatencyServer(backend, address, limits)
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
        self, backend: LatencyBackend, *, limits: ServiceLimits | None = None, grace_s: float = GRACE_S
    ) -> None:
        self.address = ""
        self._backend = backend
        self._limits = limits
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
        server = LatencyServer(self._backend, "127.0.0.1:0", self._limits)
        try:
            address = await server.start()
            self._started.set_result((address, asyncio.get_running_loop(), stop))
            await stop.wait()
        finally:
            await server.drain(self._grace_s)
