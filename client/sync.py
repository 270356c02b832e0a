"""The client that waits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np

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


class Client(BaseClient):
    """Asks a service at `host:port`; close it, or use it as a context manager. Threads may share one.

    TLS, token: see `Endpoint`. Every method raises what the service raises, as the same `MilliseekError` class with
    message and remedy, and `ServiceError` when the service cannot be reached, does not answer within `timeout_s`
    seconds (for uploads, streams and arrays: seconds a file or batch), or fails.

    A call is made again, up to three times within about a second, where nobody answered (UNAVAILABLE) and making it
    twice does no harm: those that ask, and those that have the same result the second time, as `submit` has by its
    keys. Uploads, streams and `remove_device` are made once. `watch` and `wait` bear ten minutes without a service.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls: bool | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(address, token=token, tls=tls, ca_file=ca_file, timeout_s=timeout_s)
        self._channel = self._endpoint.channel()
        self._methods = methods_of(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; calls under way are cancelled. May be called twice."""
        self._channel.close()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Return once the service answers; raises `ServiceError` after `timeout_s` seconds."""
        self._take(predictions.wait_ready(timeout_s))

    def targets(self) -> list[TargetInfo]:
        """The targets that have a predictor, ordered by name."""
        return self._take(predictions.targets())

    def upload(self, model: str | os.PathLike[str] | bytes, *, name: str = "", expected_sha256: str = "") -> str:
        """Upload a model file, given by its path or its bytes, and return its SHA-256, its name from now on.

        `name`: file name whose suffix tells the format, by default that of the path, `model.onnx` for bytes.
        Raises `NotFound` for a missing file, `InvalidInput` for one that cannot be read or is not a model, or
        whose SHA-256 is not the expected one.
        """
        return self._take(upload(model, name, expected_sha256))

    def predict(self, model: Model, target: str) -> Prediction:
        """Predict a model on a target; `model` is a path, the bytes of a file, or the SHA-256 of an upload.

        A path or bytes are uploaded first. A file whose name looks like a SHA-256 is meant by `Path(name)`.
        """
        return self._take(predictions.predict(model, target))

    def predict_many(self, models: Iterable[Model], target: str) -> list[Prediction]:
        """Predict models on a target over one stream, in their order; the first that fails raises."""
        return self._take(predictions.predict_many(models, target))

    def predict_kernels(self, specs: Iterable[str], target: str) -> KernelLatencies:
        """Predict single kernels, each given as the `spec` of a kernel of a prediction.

        Raises `InvalidInput` for a text that is none, or one of another runtime; `Busy` if the predictor was replaced
        meanwhile.
        """
        return self._take(predictions.predict_kernels(specs, target))

    def predict_subnets(self, space: str, target: str, genes: np.ndarray) -> SubnetLatencies:
        """Predict subnets of a space; `genes`: integer array (subnets, genes a subnet). Big arrays go as a
        stream.

        Raises `InvalidInput` for an array that is not of this kind, `Busy` if the predictor was replaced
        meanwhile.
        """
        return self._take(predictions.predict_subnets(space, target, genes))

    def latency_table(self, space: str, target: str) -> LatencyTable:
        """A space, or a whole hyperspace, compiled for a target, or for one version of its predictor (`TARGET@3`)."""
        return self._take(predictions.latency_table(space, target))

    def devices(self) -> list[Device]:
        """All devices, ordered by name."""
        return self._take(fleet.devices())

    def device(self, name: str) -> Device:
        """One device; raises `NotFound`."""
        return self._take(fleet.device(name))

    def drain_device(self, name: str) -> Device:
        """Let a device finish what it holds and give it no further jobs."""
        return self._take(fleet.drain_device(name, resume=False))

    def resume_device(self, name: str) -> Device:
        """Let a drained device take jobs again."""
        return self._take(fleet.drain_device(name, resume=True))

    def remove_device(self, name: str) -> None:
        """Remove a device: its jobs go to others of its model or fail, its token is revoked. Measurements stay."""
        self._take(fleet.remove_device(name))

    def submit(
        self,
        models: Iterable[Model],
        target: str,
        *,
        visits: int = 1,
        priority: int = 0,
        keys: Sequence[str] | None = None,
    ) -> list[Job]:
        """Submit a measurement of each model on a target, whose device may be a device or a model of devices.

        Files and bytes are uploaded first, as in `predict`. `visits`: 1 to 100 for each; jobs of a higher `priority`
        (-100 to 100) go first. `keys`: a name for each job, unique among yours: submitting it again returns the job
        that there is. Without keys each call submits new jobs.
        """
        return self._take(fleet.submit(models, target, visits, priority, keys))

    def jobs(self, jobs: Jobs) -> list[Job]:
        """Jobs, given as such or by their ids, as they are now, in that order; raises `NotFound`."""
        return self._take(fleet.get_jobs(jobs))

    def list_jobs(self, *, target: str = "", state: JobState | None = None) -> Iterator[Job]:
        """All jobs, or those of a target or in a state, the oldest first; asks for more as they are taken."""
        page_token = ""
        while True:
            page, page_token = self._take(fleet.job_page(target, state, page_token))
            yield from page
            if not page_token:
                return

    def cancel(self, jobs: Jobs) -> list[Job]:
        """Cancel jobs that have not ended; the jobs after that, in the order of the question."""
        return self._take(fleet.cancel(jobs))

    def watch(self, jobs: Jobs, timeout_s: float | None = None) -> Iterator[Job]:
        """Each of the jobs as it is, then whenever it changes, until all have ended; of more than 1000 not all at once.

        Raises `Busy` if that takes longer than `timeout_s` seconds. Goes on when the service is restarted.
        """
        watch = Watch(self._endpoint, jobs, timeout_s)
        while not watch.is_over:
            failure, stream = None, self._start(watch.call())
            try:
                for response in stream:
                    if job := watch.news(response):
                        yield job
            except grpc.RpcError as error:
                failure = error
            except BrokenAnswer as error:
                raise self._endpoint.broken(error) from error
            finally:
                stream.cancel()
            time.sleep(watch.pause_s(failure))

    def wait(self, jobs: Jobs, timeout_s: float | None = None) -> list[Job]:
        """Wait until jobs have ended, and return them in the order of the question; raises as `watch` does."""
        ids = fleet.ids_of(jobs)
        latest = {job.id: job for job in self.watch(ids, timeout_s)}
        return [latest[id_] for id_ in ids]

    def _take(self, steps: Steps[T]) -> T:
        """Take the steps one after another."""
        with closing(steps):
            try:
                call = next(steps)
                while True:
                    try:
                        answer = self._answer(call)
                    except grpc.RpcError as error:
                        call = steps.throw(self._failure(error, call))
                    else:
                        call = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except BrokenAnswer as error:
                raise self._endpoint.broken(error) from error

    def _answer(self, call: Call) -> Any:
        pauses_s = self._pauses_s()
        while True:
            try:
                answer = self._start(call)
                return list(answer) if call.streamed else answer
            except grpc.RpcError as error:
                pause_s = next(pauses_s, None) if self._may_repeat(error, call) else None
                if pause_s is None:
                    raise
            time.sleep(pause_s)
