"""Who is asking, and what they may ask: callers, and the scopes that each method takes."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from ...errors import PermissionDenied

Scope = Literal["admin", "search", "device"]

_EVERYONE: frozenset[Scope] = frozenset({"admin", "search", "device"})
_SEARCH: frozenset[Scope] = frozenset({"admin", "search"})
_DEVICE: frozenset[Scope] = frozenset({"admin", "device"})
_ADMIN: frozenset[Scope] = frozenset({"admin"})

OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check"})
"""What is answered without a token: load balancers have none, and the answer says only whether we are up."""

METHOD_SCOPES: dict[str, frozenset[Scope]] = {
    "/milliseek.rpc.v1.LatencyService/UploadModel": _SEARCH,
    "/milliseek.rpc.v1.LatencyService/PredictModel": _SEARCH,
    "/milliseek.rpc.v1.LatencyService/StreamPredictModels": _SEARCH,
    "/milliseek.rpc.v1.LatencyService/PredictKernels": _SEARCH,
    "/milliseek.rpc.v1.LatencyService/PredictSubnets": _SEARCH,
    "/milliseek.rpc.v1.LatencyService/StreamPredictSubnets": _SEARCH,
    "/milliseek.rpc.v1.LatencyService/GetLatencyTable": _SEARCH,
    "/milliseek.rpc.v1.LatencyService/ListTargets": _SEARCH,
    "/milliseek.rpc.v1.DeviceService/RegisterDevice": _DEVICE,
    "/milliseek.rpc.v1.DeviceService/GetDevice": _EVERYONE,
    "/milliseek.rpc.v1.DeviceService/ListDevices": _SEARCH,
    "/milliseek.rpc.v1.DeviceService/DrainDevice": _ADMIN,
    "/milliseek.rpc.v1.DeviceService/RemoveDevice": _ADMIN,
    "/milliseek.rpc.v1.DeviceService/Work": _DEVICE,
    "/milliseek.rpc.v1.DeviceService/DownloadPayload": _DEVICE,
    "/milliseek.rpc.v1.DeviceService/UploadPayload": _DEVICE,
    "/milliseek.rpc.v1.MeasureService/SubmitJobs": _SEARCH,
    "/milliseek.rpc.v1.MeasureService/GetJobs": _SEARCH,
    "/milliseek.rpc.v1.MeasureService/ListJobs": _SEARCH,
    "/milliseek.rpc.v1.MeasureService/WatchJobs": _SEARCH,
    "/milliseek.rpc.v1.MeasureService/CancelJobs": _SEARCH,
    "/grpc.health.v1.Health/Check": _EVERYONE,
    "/grpc.health.v1.Health/List": _EVERYONE,
    "/grpc.health.v1.Health/Watch": _EVERYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _EVERYONE,
}
"""The scopes that may call a method; a method that is not here is refused to everybody."""


@dataclass(frozen=True)
class Caller:
    """Who is asking: the name of the token, its scope, and the device that a device token stands for.

    Without tokens, which only a service on a loopback address does, everybody is `LOCAL_USER`.
    """

    name: str
    scope: Scope
    device: str | None = None


LOCAL_USER = Caller("", "admin")
STRANGER = Caller("", "device")
"""Who calls one of the `OPEN_METHODS`: no device of all."""
_CALLER: ContextVar[Caller] = ContextVar("milliseek_caller")


def current_caller() -> Caller:
    """Who made the call that is being answered; a bug outside of one. A pool of threads does not know it."""
    return _CALLER.get()


def set_caller(caller: Caller) -> None:
    """Say who made the call that the running task answers: for the interceptor, and for tests of servicers."""
    _CALLER.set(caller)


def require_device(name: str) -> None:
    """Raise `PermissionDenied` unless the caller is an administrator or the device of that name."""
    caller = current_caller()
    if caller.scope != "admin" and (caller.scope != "device" or caller.device != name):
        raise PermissionDenied(
            f"The token '{caller.name}' may not act as the device '{name}'.",
            "Give the agent a token of its own: milliseek tokens create NAME --scope device --device DEVICE",
        )


def check_permitted(caller: Caller, method: str) -> None:
    """Raise `PermissionDenied` unless the scope of the caller's token covers the method."""
    scopes = METHOD_SCOPES.get(method)
    if scopes is None:
        raise PermissionDenied(f"Nobody may call {method}.", "Ask the administrator of the service.")
    if caller.scope not in scopes:
        raise PermissionDenied(
            f"The token '{caller.name}' has the scope {caller.scope}, which does not cover {method}.",
            f"Use a token of the scope {' or '.join(sorted(scopes))}.",
        )
