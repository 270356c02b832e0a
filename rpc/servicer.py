"""LatencyService over any `LatencyBackend`."""

# ruff: noqa: ARG002, N802 - methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from grpc import aio

from . import convert
from .answers import Answer, KnownAnswers
from .backend import LatencyBackend
from .limits import (
    ServiceLimits,
    check_chunk,
    check_header,
    check_kernels,
    check_sha256,
    check_space,
    check_subnets,
    check_target,
)
from .spool import Spool
from .v1 import latency_pb2, latency_pb2_grpc

Context = aio.ServicerContext[Any, Any]
P = ParamSpec("P")
T = TypeVar("T")


class LatencyServicer(latency_pb2_grpc.LatencyServiceServicer):
    """Checks requests, asks the backend in a pool of threads, and converts its answers.

    Handlers raise `MilliseekError`; `CallInterceptor` turns it into a status. Everything that may take
    longer than a few microseconds, conversions included, runs in the pool, so that one big request does not
    hold up the others.
    """

    def __init__(
        self,
        backend: LatencyBackend,
        executor: Executor,
        limits: ServiceLimits | None = None,
    ) -> None:
        self._backend = backend
        self._executor = executor
        self._limits = limits or ServiceLimits()
        self._stores = asyncio.Semaphore(self._limits.stores)
        self._answers = KnownAnswers(backend)

    async def UploadModel(
        self, request_iterator: AsyncIterator[latency_pb2.UploadModelRequest], context: Context
    ) -> latency_pb2.UploadModelResponse:
        """Spool the chunks to disk, compare the SHA-256, then hand the file to the backend."""
        requests = aiter(request_iterator)
        header = check_header(await anext(requests, None), self._limits)
        with Spool(header.size_bytes) as spool:
            async for request in requests:
                await self._in_pool(spool.write, check_chunk(request, self._limits))
            async with self._stores:
                sha256 = await self._in_pool(self._store, spool, header)
            return latency_pb2.UploadModelResponse(sha256=sha256, size_bytes=spool.size_bytes)

    async def PredictModel(self, request: latency_pb2.PredictModelRequest, context: Context) -> Any:
        """Predict an uploaded model; the response comes as bytes, which `CallInterceptor` lets through."""
        return (await self._answer(request)).serialised

    async def StreamPredictModels(
        self, request_iterator: AsyncIterator[latency_pb2.StreamPredictModelsRequest], context: Context
    ) -> AsyncIterator[latency_pb2.StreamPredictModelsResponse]:
        """Predict model after model; the next request is read when the answer to this one has been taken."""
        async for request in request_iterator:
            yield latency_pb2.StreamPredictModelsResponse(response=(await self._answer(request.request)).message)

    async def PredictKernels(
        self, request: latency_pb2.PredictKernelsRequest, context: Context
    ) -> latency_pb2.PredictKernelsResponse:
        """Predict the kernels of one request."""
        check_kernels(request, self._limits)
        return await self._in_pool(self._predict_kernels, request)

    async def PredictSubnets(
        self, request: latency_pb2.PredictSubnetsRequest, context: Context
    ) -> latency_pb2.PredictSubnetsResponse:
        """Predict the subnets of one request."""
        check_subnets(request, self._limits)
        return await self._in_pool(self._predict_subnets, request)

    async def StreamPredictSubnets(
        self, request_iterator: AsyncIterator[latency_pb2.StreamPredictSubnetsRequest], context: Context
    ) -> AsyncIterator[latency_pb2.StreamPredictSubnetsResponse]:
        """Predict batch after batch; the next one is read when the answer to this one has been taken."""
        async for request in request_iterator:
            check_subnets(request.batch, self._limits)
            batch = await self._in_pool(self._predict_subnets, request.batch)
            yield latency_pb2.StreamPredictSubnetsResponse(batch=batch)

    async def GetLatencyTable(
        self, request: latency_pb2.GetLatencyTableRequest, context: Context
    ) -> AsyncIterator[latency_pb2.GetLatencyTableResponse]:
        """Compile the table, then send it part by part."""
        space, target = check_space(request.space), check_target(request.target)
        table = await self._in_pool(self._backend.latency_table, space, target)
        parts = convert.table_to_parts(table)
        while (part := await self._in_pool(next, parts, None)) is not None:
            yield part

    async def ListTargets(
        self, request: latency_pb2.ListTargetsRequest, context: Context
    ) -> latency_pb2.ListTargetsResponse:
        """List the targets with a predictor."""
        infos = await self._in_pool(self._backend.targets)
        return latency_pb2.ListTargetsResponse(targets=[convert.target_info_to_proto(info) for info in infos])

    def _store(self, spool: Spool, header: latency_pb2.UploadModelHeader) -> str:
        return self._backend.store_model(spool.read(header.expected_sha256), header.name)

    async def _answer(self, request: latency_pb2.PredictModelRequest) -> Answer:
        if (known := self._answers.get(request.sha256, request.target)) is not None:
            return known
        sha256, target, asked_at = check_sha256(request.sha256), check_target(request.target), time.monotonic()
        return self._answers.put(sha256, target, await self._in_pool(self._predict_model, sha256, target), asked_at)

    def _predict_model(self, sha256: str, target: str) -> Answer:
        prediction = self._backend.predict_model(sha256, target)
        message = latency_pb2.PredictModelResponse(prediction=convert.prediction_to_proto(prediction))
        return Answer(message, message.SerializeToString())

    def _predict_kernels(self, request: latency_pb2.PredictKernelsRequest) -> latency_pb2.PredictKernelsResponse:
        latencies = self._backend.predict_kernels(request.target, list(request.kernels))
        return convert.kernel_latencies_to_proto(latencies)

    def _predict_subnets(self, request: latency_pb2.PredictSubnetsRequest) -> latency_pb2.PredictSubnetsResponse:
        genes = convert.genes_from_proto(request)
        latencies = self._backend.predict_subnets(request.space, request.target, genes)
        return convert.subnet_latencies_to_proto(latencies)

    async def _in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        context = copy_context()  # the log lines of the backend carry the id of the call
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: context.run(function, *args, **kwargs)
        )
