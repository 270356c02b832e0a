"""What `Client` and `AsyncClient` have in common: where they ask, and how a call is begun."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import grpc

from ..errors import MilliseekError
from ..rpc.v1 import device_pb2_grpc, latency_pb2_grpc, measure_pb2_grpc
from .endpoint import Endpoint, raised_there
from .steps import Call

PAUSES_S = (0.1, 0.3, 0.9)
"""Before a call is made again."""
_MADE_ONCE = frozenset({"UploadModel", "StreamPredictModels", "StreamPredictSubnets", "RemoveDevice"})
"""Streams, which are used up, and what has another result the second time."""


class BaseClient:
    """A client of the service at `address`, `host:port`; `token`, `tls` and `ca_file` as `Endpoint` takes them."""

    _methods: dict[str, Any]

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls: bool | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.timeout_s = timeout_s
        self._endpoint = Endpoint(address, token=token, tls=tls, ca_file=ca_file)

    @property
    def address(self) -> str:
        """`host:port` of the service."""
        return self._endpoint.address

    def _start(self, call: Call) -> Any:
        """What gRPC gives for a call: a message, a stream or something to be awaited."""
        return self._methods[call.method](
            call.request,
            timeout=self._timeout_s(call),
            metadata=self._endpoint.metadata,
            wait_for_ready=call.wait_for_ready,
        )

    def _pauses_s(self) -> Iterator[float]:
        """Seconds to wait before each further try, not the same for all clients of a service that was restarted."""
        return (random.uniform(0.8, 1.2) * pause_s for pause_s in PAUSES_S)

    def _may_repeat(self, error: grpc.RpcError, call: Call) -> bool:
        """Whether nobody answered, and calling again does no harm if somebody did hear it."""
        return (
            error.code() is grpc.StatusCode.UNAVAILABLE
            and call.method not in _MADE_ONCE
            and raised_there(error) is None
        )

    def _failure(self, error: grpc.RpcError, call: Call) -> MilliseekError:
        failure = self._endpoint.error(error, self._timeout_s(call))
        failure.__cause__ = error
        return failure

    def _timeout_s(self, call: Call) -> float:
        return self.timeout_s * call.batches if call.timeout_s is None else call.timeout_s


def methods_of(channel: Any) -> dict[str, Any]:
    """What calls each method of the three services, by its name."""
    stubs = (
        latency_pb2_grpc.LatencyServiceStub(channel),
        device_pb2_grpc.DeviceServiceStub(channel),
        measure_pb2_grpc.MeasureServiceStub(channel),
    )
    return {name: method for stub in stubs for name, method in vars(stub).items()}
