"""What surrounds every call: who asks, its id, its log line and figures, and how a failure becomes a status."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from ..errors import InvalidInput, MilliseekError
from .access.auth import LOCAL_USER, METHOD_SCOPES, OPEN_METHODS, STRANGER, check_permitted, current_caller, set_caller
from .access.live_tokens import LiveTokens, Refused
from .log import REQUEST_ID, REQUEST_ID_KEY, log_call, request_id
from .status import WireStatus, status_from_error

T = TypeVar("T")
Observe = Callable[[str, str, float], None]
"""Told of every call that ended: method, name of its status code, seconds."""

_LOG = logging.getLogger(__name__)
_CALLS = logging.getLogger("milliseek.rpc.calls")
_LEVELS = {
    "INTERNAL": logging.ERROR,
    "PERMISSION_DENIED": logging.WARNING,
    "UNAUTHENTICATED": logging.WARNING,
}
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_DIGEST: ContextVar[str | None] = ContextVar("milliseek_token_digest", default=None)
_Context = aio.ServicerContext[Any, Any]

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
    _ServerInterceptor = aio.ServerInterceptor[Any, Any]
else:  # generic for type checkers only
    _Handler = grpc.RpcMethodHandler
    _ServerInterceptor = aio.ServerInterceptor


class CallInterceptor(_ServerInterceptor):
    """Lets in who may come in, gives the call an id, and ends it with the status of what its handler raised.

    A `MilliseekError` becomes its own status. Any other exception is a bug: its traceback goes to the log under an
    incident number, and the client gets INTERNAL with that number and nothing else. Handlers are coroutines or
    asynchronous generators.

    Without `tokens` everybody is `LOCAL_USER`. With them a token is looked at when a call begins, and again at every
    message of a stream: one that does not hold any more ends it.
    """

    def __init__(self, tokens: LiveTokens | None = None, observe: Observe | None = None) -> None:
        self._tokens = tokens
        self._observe = observe
        self._handlers: dict[str, _Handler] = {}  # of methods that exist: callers cannot make it grow

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The handler of the call, wrapped, or one that refuses it."""
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        REQUEST_ID.set(request_id(metadata))
        set_caller(STRANGER)
        try:
            if self._tokens is None:
                set_caller(LOCAL_USER)
            elif method not in OPEN_METHODS:
                caller, digest = await self._tokens.caller(metadata)
                set_caller(caller)
                _DIGEST.set(digest)
            if (known := self._handlers.get(method)) is None:
                if (handler := await continuation(handler_call_details)) is None:
                    return handler  # no such method: gRPC says UNIMPLEMENTED
                known = self._handlers[method] = self._wrapped(handler, method)
            check_permitted(current_caller(), method)
        except Exception as error:  # noqa: BLE001 - nothing may leave unmapped
            return self._refusal(error, method)
        return known

    def _wrapped(self, handler: _Handler, method: str) -> _Handler:
        """The handler inside what surrounds every call."""
        inner, requests, responses = _function(handler), handler.request_streaming, handler.response_streaming

        async def answer(request: Any, context: _Context) -> Any:
            if requests:
                request = self._while_held(request)
            elif isinstance(request, _Unreadable):
                return await self._ended(_refused(request), method, context)
            work = inner(request, context)
            return await self._ended(self._send(work, context) if responses else work, method, context)

        return _MAKE[requests, responses](
            answer,
            request_deserializer=_forgiving(handler.request_deserializer),
            response_serializer=_unless_bytes(handler.response_serializer),
        )

    def _refusal(self, error: Exception, method: str) -> _Handler:
        """Ends a call of any kind without reading what it sends."""

        async def refuse(_request: Any, context: _Context) -> None:
            async def fail() -> None:
                raise error

            await self._ended(fail(), method, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _ended(self, work: Awaitable[T], method: str, context: _Context) -> T:
        """What the work returns; its failure as the status of the call; and a line in the log about either."""
        began = time.perf_counter()
        told = ((REQUEST_ID_KEY, REQUEST_ID.get()),)
        context.set_trailing_metadata(told)
        code, message, caller = "OK", "answered", current_caller().name
        try:
            result = await work
            code = _code_name(context)
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            code = "DEADLINE_EXCEEDED" if left_s is not None and left_s <= 0 else "CANCELLED"
            raise
        except aio.AbortError:
            code, message = _code_name(context), context.details()
            raise
        except Exception as error:
            status = _status(error, method)
            code, message = status.code.name, status.message
            if isinstance(error, Refused):
                message, caller = f"refused: {error.reason} token", error.token
            await context.abort(status.code, status.message, (*status.trailing_metadata, *told))
            raise
        finally:
            seconds = time.perf_counter() - began
            if self._observe:
                self._observe(method if method in METHOD_SCOPES else "unknown", code, seconds)
            log_call(
                _CALLS,
                _LEVELS.get(code, logging.INFO),
                message,
                method=method,
                caller=caller,
                code=code,
                ms=round(1000 * seconds, 3),
                peer="" if code == "OK" else context.peer(),
            )
        return result

    async def _send(self, work: Any, context: _Context) -> None:
        """Write the responses of an asynchronous generator; a coroutine writes its own."""
        if not inspect.isasyncgen(work):
            await work
            return
        async with aclosing(work):
            async for response in work:
                await self._check_held()
                await context.write(response)

    async def _while_held(self, requests: AsyncIterator[T]) -> AsyncIterator[T]:
        async for request in requests:
            await self._check_held()
            if isinstance(request, _Unreadable):
                await _refused(request)
            yield request

    async def _check_held(self) -> None:
        digest = _DIGEST.get()
        if self._tokens is not None and digest is not None:
            await self._tokens.still_holds(digest)


_MAKE: dict[tuple[bool, bool], Callable[..., _Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _function(handler: _Handler) -> Callable[[Any, _Context], Any]:
    found: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return cast("Callable[[Any, _Context], Any]", found)


@dataclass(frozen=True)
class _Unreadable:
    """Bytes that are no message of the kind that the method takes."""

    reason: str


def _forgiving(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Left to itself gRPC takes bytes that are no message for a fault of the service."""

    def read(data: bytes) -> Any:
        assert parse is not None
        try:
            return parse(data)
        except DecodeError as error:
            return _Unreadable(str(error))

    return parse and read


async def _refused(request: _Unreadable) -> None:
    raise InvalidInput(
        f"The request is not a message of this method: {request.reason}", "Use the protos of this version."
    )


def _unless_bytes(serialise: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """A handler may return what it has serialised already."""
    return serialise and (lambda response: response if isinstance(response, bytes) else serialise(response))


def _code_name(context: _Context) -> str:
    """A handler may set a code without raising; gRPC gives it as a number or as a member."""
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _CODE_NAMES.get(code or 0, "UNKNOWN")


def _status(error: Exception, method: str) -> WireStatus:
    if isinstance(error, MilliseekError):
        return status_from_error(error)
    incident = secrets.token_hex(4)
    _LOG.error("%s failed, incident %s", method, incident, exc_info=error)
    return WireStatus(
        grpc.StatusCode.INTERNAL, f"The service failed in {method}; incident {incident} in its log says why."
    )
