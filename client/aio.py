"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import closing
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from grpc import aio

from ..results import (
    Device,
    Job,
    JobState,
    KernelLatencies,
    LatencyTable,
    Prediction,
    SubnetLatencies,
    TargetInfo,
)
from . import fleet, predictions
from .base import BaseClient, methods_of
from .fleet import Jobs
from .steps import BrokenAnswer, Call, Steps
from .upload import Model, upload
from .watch import Watch

T = TypeVar("T")


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same methods and errors. Connects at the first call, on the loop that is running then.

    Use it on one loop; its methods may be awaited at the same time. Files are read and arrays converted on the loop.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._channel.close(None)

    async def wait_ready(self, timeout_s: float = 10.0) -> None:
        """As `Client.wait_ready`."""
        await self._take(predictions.wait_ready(timeout_s))

    async def targets(self) -> list[TargetInfo]:
        """As `Client.targets`."""
        return await self._take(predictions.targets())

    async def upload(self, model: str | os.PathLike[str] | bytes, *, name: str = "", expected_sha256: str = "") -> str:
        """As `Client.upload`."""
        return await self._take(upload(model, name, expected_sha256))

    async def predict(self, model: Model, target: str) -> Prediction:
        """As `Client.predict`."""
        return await self._take(predictions.predict(model, target))

    async def predict_many(self, models: Iterable[Model], target: str) -> list[Prediction]:
        """As `Client.predict_many`."""
        return await self._take(predictions.predict_many(models, target))

    async def predict_kernels(self, specs: Iterable[str], target: str) -> KernelLatencies:
        """As `Client.predict_kernels`."""
        return await self._take(predictions.predict_kernels(specs, target))

    async def predict_subnets(self, space: str, target: str, genes: np.ndarray) -> SubnetLatencies:
        """As `Client.predict_subnets`."""
        return await self._take(predictions.predict_subnets(space, target, genes))

    async def latency_table(self, space: str, target: str) -> LatencyTable:
        """As `Client.latency_table`."""
        return await self._take(predictions.latency_table(space, target))

    async def devices(self) -> list[Device]:
        """As `Client.devices`."""
        return await self._take(fleet.devices())

    async def device(self, name: str) -> Device:
        """As `Client.device`."""
        return await self._take(fleet.device(name))

    async def drain_device(self, name: str) -> Device:
        """As `Client.drain_device`."""
        return await self._take(fleet.drain_device(name, resume=False))

    async def resume_device(self, name: str) -> Device:
        """As `Client.resume_device`."""
        return await self._take(fleet.drain_device(name, resume=True))

    async def remove_device(self, name: str) -> None:
        """As `Client.remove_device`."""
        await self._take(fleet.remove_device(name))

    async def submit(
        self,
        models: Iterable[Model],
        target: str,
        *,
        visits: int = 1,
        priority: int = 0,
        keys: Sequence[str] | None = None,
    ) -> list[Job]:
        """As `Client.submit`."""
        return await self._take(fleet.submit(models, target, visits, priority, keys))

    async def jobs(self, jobs: Jobs) -> list[Job]:
        """As `Client.jobs`."""
        return await self._take(fleet.get_jobs(jobs))

    async def list_jobs(self, *, target: str = "", state: JobState | None = None) -> AsyncIterator[Job]:
        """As `Client.list_jobs`."""
        page_token = ""
        while True:
            page, page_token = await self._take(fleet.job_page(target, state, page_token))
            for job in page:
                yield job
            if not page_token:
                return

    async def cancel(self, jobs: Jobs) -> list[Job]:
        """As `Client.cancel`."""
        return await self._take(fleet.cancel(jobs))

    async def watch(self, jobs: Jobs, timeout_s: float | None = None) -> AsyncIterator[Job]:
        """As `Client.watch`."""
        watch = Watch(self._endpoint, jobs, timeout_s)
        while not watch.is_over:
            failure, stream = None, self._start(watch.call())
            try:
                async for response in stream:
                    if job := watch.news(response):
                        yield job
            except grpc.RpcError as error:
                failure = error
            except BrokenAnswer as error:
                raise self._endpoint.broken(error) from error
            finally:
                stream.cancel()
            await asyncio.sleep(watch.pause_s(failure))

    async def wait(self, jobs: Jobs, timeout_s: float | None = None) -> list[Job]:
        """As `Client.wait`."""
        ids = fleet.ids_of(jobs)
        latest = {job.id: job async for job in self.watch(ids, timeout_s)}
        return [latest[id_] for id_ in ids]

    async def _take(self, steps: Steps[T]) -> T:
        """Take the steps one after another."""
        with closing(steps):
            try:
                call = next(steps)
                while True:
                    try:
                        answer = await self._answer(call)
                    except grpc.RpcError as error:
                        call = steps.throw(self._failure(error, call))
                    else:
                        call = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except BrokenAnswer as error:
                raise self._endpoint.broken(error) from error

    async def _answer(self, call: Call) -> Any:
        pauses_s = self._pauses_s()
        while True:
            try:
                answer = self._start(call)
                return [message async for message in answer] if call.streamed else await answer
            except grpc.RpcError as error:
                pause_s = next(pauses_s, None) if self._may_repeat(error, call) else None
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)

    @cached_property
    def _channel(self) -> aio.Channel:
        return self._endpoint.aio_channel()

    @cached_property
    def _methods(self) -> dict[str, Any]:  # type: ignore[override]
        return methods_of(self._channel)
