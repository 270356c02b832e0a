"""Following jobs for as long as they take, through restarts of the service."""

from __future__ import annotations

import math
import time

import grpc

from ..errors import Busy
from ..results import Job
from ..rpc.v1 import measure_pb2
from .endpoint import Endpoint
from .fleet import JOBS_PER_CALL, Jobs, ids_of, job_of
from .steps import Call

ROUND_S = 300.0
"""Seconds after which a stream is replaced: one that died without saying so would otherwise never end."""
PATIENCE_S = 600.0
"""Seconds without a word after which watching ends with an error; in a round of idle jobs there is none for long."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class Watch:
    """What is known of some jobs while they are watched, and what to do when a stream ends; it waits for nothing."""

    def __init__(self, endpoint: Endpoint, jobs: Jobs, timeout_s: float | None) -> None:
        self._endpoint = endpoint
        self._open = dict.fromkeys(ids_of(jobs))
        self._known: dict[str, Job] = {}
        self._timeout_s = timeout_s
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._heard_at = time.monotonic()
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_over(self) -> bool:
        """Whether all jobs have ended."""
        return not self._open

    def call(self) -> Call:
        """The next stream to be read."""
        ids = list(self._open)[:JOBS_PER_CALL]
        timeout_s = max(0.0, min(ROUND_S, self._deadline - time.monotonic()))
        return Call("WatchJobs", measure_pb2.WatchJobsRequest(ids=ids), streamed=True, timeout_s=timeout_s)

    def news(self, response: measure_pb2.WatchJobsResponse) -> Job | None:
        """The job that a message is about; None if it has not changed."""
        self._heard_at, self._pause_s = time.monotonic(), FIRST_PAUSE_S
        job = job_of(response.job)
        if job.ended:
            self._open.pop(job.id, None)
        if self._known.get(job.id) == job:
            return None
        self._known[job.id] = job
        return job

    def pause_s(self, error: grpc.RpcError | None) -> float:
        """Seconds to wait before the next stream, after one has ended; raises what ends the watching."""
        if self.is_over:
            return 0.0
        now = time.monotonic()
        if now >= self._deadline:
            raise Busy(
                f"{len(self._open)} jobs have not ended within {self._timeout_s:g} s.", "Wait again; they go on."
            )
        code = error.code() if error is not None else None
        lasting = code not in (
            None,
            grpc.StatusCode.UNAVAILABLE,  # the service is being restarted
            grpc.StatusCode.CANCELLED,  # it drains
            grpc.StatusCode.DEADLINE_EXCEEDED,  # the round is over
        )
        if error is not None and (lasting or now - self._heard_at > PATIENCE_S):
            raise self._endpoint.error(error, ROUND_S) from error
        self._pause_s, pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S), self._pause_s
        return min(pause_s, max(0.0, self._deadline - now))
