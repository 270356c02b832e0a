"""How a `MilliseekError` becomes a gRPC status and comes back: the one place that knows the mapping.

The status carries a google.rpc.Status with one google.rpc.ErrorInfo, so that any gRPC library can read it;
`reason` is the class of the error, because several classes share one status code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from .. import errors
from ..errors import ERROR_BY_CODE, MilliseekError
from .v1 import error_pb2

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "milliseek"
_TYPE_URL = "type.googleapis.com/google.rpc.ErrorInfo"
# Status message and details share the 8 KiB of trailing metadata that every peer accepts; the message is in
# both.
_MAX_TEXT_BYTES = 1000
# Without details these come from the library, the connection or a fault of the server.
_GRPC_ITSELF = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


@dataclass(frozen=True)
class WireStatus:
    """What a failed call ends with: code, message and trailing metadata."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...] = ()


def status_from_error(error: MilliseekError) -> WireStatus:
    """The status of an error; texts over 1000 bytes are cut."""
    code = grpc.StatusCode[error.code]
    message, remedy = _cut(error.message), _cut(error.remedy)
    info = error_pb2.ErrorInfo(
        reason=_reason(type(error)), domain=DOMAIN, metadata={"remedy": remedy} if remedy else None
    )
    details = Any(type_url=_TYPE_URL, value=info.SerializeToString())
    status = error_pb2.Status(code=code.value[0], message=message, details=[details])
    return WireStatus(code, message, ((DETAILS_KEY, status.SerializeToString()),))


def error_from_status(
    code: grpc.StatusCode, message: str, trailing_metadata: Iterable[tuple[str, str | bytes]]
) -> MilliseekError | None:
    """The error that a status stands for; None if it comes from gRPC itself or from a fault of the server."""
    for key, value in trailing_metadata:
        if key == DETAILS_KEY and isinstance(value, bytes) and (error := _error_from_details(value, code)):
            return error
    if code in _GRPC_ITSELF or code.name not in ERROR_BY_CODE:
        return None
    return ERROR_BY_CODE[code.name](message)


def _error_from_details(details: bytes, code: grpc.StatusCode) -> MilliseekError | None:
    try:
        status = error_pb2.Status.FromString(details)
        infos = [error_pb2.ErrorInfo.FromString(any_.value) for any_ in status.details if any_.type_url == _TYPE_URL]
    except DecodeError:
        return None
    for info in infos:
        if info.domain == DOMAIN:
            # A newer server may have classes that this version lacks: its status code still says what it is
            # like.
            cls = _CLASS_BY_REASON.get(info.reason) or ERROR_BY_CODE.get(code.name, MilliseekError)
            # Constructors differ (`MissingExtra` takes a package and an extra); the state is the same for
            # all.
            error = cls.__new__(cls)
            MilliseekError.__init__(error, status.message, info.metadata.get("remedy", ""))
            return error
    return None


def _reason(cls: type[MilliseekError]) -> str:
    """UPPER_SNAKE_CASE name of the class, or of its nearest base in `milliseek.errors`: the client has only
    those."""
    public = next(base for base in cls.__mro__ if base.__module__ == errors.__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", public.__name__).upper()


def _cut(text: str) -> str:
    data = text.encode(errors="replace")  # a file name may hold bytes that are not UTF-8
    if len(data) <= _MAX_TEXT_BYTES:
        return data.decode()
    return data[: _MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"


_CLASS_BY_REASON: dict[str, type[MilliseekError]] = {
    _reason(cls): cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, MilliseekError)
}
