"""The services that need a database: devices and measuring, over one fleet."""

from __future__ import annotations

from concurrent.futures import Executor

from grpc import aio

from ...db.engine import Database
from ..limits import ServiceLimits
from ..v1 import device_pb2, device_pb2_grpc, measure_pb2, measure_pb2_grpc
from .device_servicer import DeviceServicer
from .dispatcher import Fleet, FleetConfig
from .measure_servicer import MeasureServicer

NAMES = (
    device_pb2.DESCRIPTOR.services_by_name["DeviceService"].full_name,
    measure_pb2.DESCRIPTOR.services_by_name["MeasureService"].full_name,
)


class FleetServices:
    """DeviceService and MeasureService of one server; `start`, `say_goodbye` and `close` on its event loop."""

    def __init__(
        self,
        server: aio.Server,
        database: Database,
        config: FleetConfig | None,
        executor: Executor,
        limits: ServiceLimits,
    ) -> None:
        """Add both services to a server that has not been started; models are prepared in the `executor`."""
        self.fleet = Fleet(database, config)
        self._measure = MeasureServicer(database, self.fleet, executor, limits)
        device_pb2_grpc.add_DeviceServiceServicer_to_server(DeviceServicer(database, self.fleet, limits), server)
        measure_pb2_grpc.add_MeasureServiceServicer_to_server(self._measure, server)

    def start(self) -> None:
        """Begin to hand out jobs."""
        self.fleet.start()

    def say_goodbye(self) -> None:
        """Send agents and watchers away; what agents finish meanwhile is still stored."""
        self.fleet.say_goodbye()

    async def close(self) -> None:
        """Stop, once all calls have ended."""
        await self.fleet.close()
        self._measure.close()
