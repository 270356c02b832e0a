"""Turns what a handler raises into a gRPC status, for every method of the milliseek services."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from ..errors import MilliseekError
from .status import WireStatus, status_from_error

_LOG = logging.getLogger(__name__)
_PACKAGE = "/milliseek."


if TYPE_CHECKING:
    _ServerInterceptor = aio.ServerInterceptor[Any, Any]
else:
    _ServerInterceptor = aio.ServerInterceptor  # generic for type checkers only


class ErrorInterceptor(_ServerInterceptor):
    """Ends a call with the status of the `MilliseekError` that its handler raised.

    Any other exception is a bug: its traceback goes to the log under an incident number, and the client gets
    INTERNAL with that number and nothing else. Handlers are coroutines or asynchronous generators.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of the call, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_PACKAGE):
            return handler
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(_one_answer(handler.unary_unary, method), **codecs)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(_one_answer(handler.stream_unary, method), **codecs)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(_many_answers(handler.unary_stream, method), **codecs)
        assert handler.stream_stream is not None
        return grpc.stream_stream_rpc_method_handler(_many_answers(handler.stream_stream, method), **codecs)


def _one_answer(handler: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def answer(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await handler(request, context)
        except aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing may leave a handler unmapped
            status = _status(error, method)
        return await context.abort(status.code, status.message, status.trailing_metadata)

    return answer


def _many_answers(handler: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def answers(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async with aclosing(handler(request, context)) as responses:
                async for response in responses:
                    yield response
        except aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing may leave a handler unmapped
            status = _status(error, method)
        else:
            return
        await context.abort(status.code, status.message, status.trailing_metadata)

    return answers


def _status(error: Exception, method: str) -> WireStatus:
    if isinstance(error, MilliseekError):
        return status_from_error(error)
    incident = secrets.token_hex(4)
    _LOG.error("%s failed, incident %s", method, incident, exc_info=error)
    return WireStatus(
        grpc.StatusCode.INTERNAL, f"The service failed in {method}; incident {incident} in its log says why."
    )
