"""MeasureService: jobs that measure uploaded models on the devices of the fleet."""

# ruff: noqa: ARG002, N802 - methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from grpc import aio

from ...db.engine import Database
from ...db.jobs import JobState, cancel_jobs, get_jobs, list_jobs
from ...db.streams import JobProgress, job_progress
from ...errors import PermissionDenied, ServiceError
from ...predictors.targets import parse_target
from ..access.auth import Caller, current_caller
from ..limits import ServiceLimits, check_target
from ..pages import page_size, page_start, page_token
from ..v1 import measure_pb2, measure_pb2_grpc
from .convert import job_to_proto
from .dispatcher import Fleet
from .limits import check_ids, check_new_jobs, check_state
from .submissions import Submissions

Context = aio.ServicerContext[Any, Any]

WATCH_S = 1.0
"""Seconds between two looks at watched jobs, for what other servers did; what happens here is told at once."""
_LIST = "jobs"
_UNSEEN = JobProgress(0, "", 0, None)


class MeasureServicer(measure_pb2_grpc.MeasureServiceServicer):
    """Checks requests, makes jobs of them, and tells what became of those.

    Whoever may submit jobs may look at all of them; only their user and administrators cancel them.
    """

    def __init__(self, database: Database, fleet: Fleet, executor: Executor, limits: ServiceLimits) -> None:
        self._database = database
        self._fleet = fleet
        self._executor = executor
        self._submissions = Submissions(database)
        self._stores = asyncio.Semaphore(limits.stores)

    def close(self) -> None:
        """End the child process that reads models."""
        self._submissions.close()

    async def SubmitJobs(
        self, request: measure_pb2.SubmitJobsRequest, context: Context
    ) -> measure_pb2.SubmitJobsResponse:
        """Submit jobs, all or none."""
        check_new_jobs(request.jobs)
        user, given_up = current_caller().name, threading.Event()
        async with self._stores:  # models are held in memory while they are prepared
            try:
                jobs = await asyncio.get_running_loop().run_in_executor(
                    self._executor, self._submissions.submit, request.jobs, user, given_up
                )
            finally:
                given_up.set()
        self._fleet.wake()
        return measure_pb2.SubmitJobsResponse(jobs=map(job_to_proto, jobs))

    async def GetJobs(self, request: measure_pb2.GetJobsRequest, context: Context) -> measure_pb2.GetJobsResponse:
        """Tell how jobs are."""
        return measure_pb2.GetJobsResponse(jobs=await self._fleet.in_pool(self._get, check_ids(request.ids)))

    async def ListJobs(self, request: measure_pb2.ListJobsRequest, context: Context) -> measure_pb2.ListJobsResponse:
        """List jobs, the oldest first."""
        target = str(parse_target(check_target(request.target))) if request.target else None
        size, after = page_size(request.page_size), page_start(_LIST, request.page_token)
        last = check_ids([after])[0] if after else 0
        return await self._fleet.in_pool(self._list, target, check_state(request.state), last, size)

    async def WatchJobs(
        self, request: measure_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[measure_pb2.WatchJobsResponse]:
        """Send jobs as they change, until all have ended."""
        ids = check_ids(request.ids)
        shown: dict[int, JobProgress] = dict.fromkeys(ids, _UNSEEN)
        with self._fleet.changes.watch(shown) as changed:
            while waiting := {id_: progress for id_, progress in shown.items() if not progress.ended}:
                changed.clear()
                for progress, job in await self._fleet.in_pool(self._changed, waiting):
                    shown[progress.id] = progress
                    yield measure_pb2.WatchJobsResponse(job=job)
                if self._fleet.changes.closed:
                    raise ServiceError("The service is going down.", "Watch the jobs again in a while.")
                if not all(progress.ended for progress in shown.values()):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(WATCH_S):
                            await changed.wait()

    async def CancelJobs(
        self, request: measure_pb2.CancelJobsRequest, context: Context
    ) -> measure_pb2.CancelJobsResponse:
        """Cancel jobs, all or none."""
        ids = check_ids(request.ids)
        jobs = await self._fleet.in_pool(self._cancel, ids, current_caller())
        self._fleet.changes.notify(ids)
        self._fleet.look()
        return measure_pb2.CancelJobsResponse(jobs=jobs)

    def _get(self, ids: Sequence[int]) -> list[measure_pb2.Job]:
        with self._database.session(read_only=True) as session:
            return [job_to_proto(job) for job in get_jobs(session, ids)]

    def _list(self, target: str | None, state: JobState | None, after: int, size: int) -> measure_pb2.ListJobsResponse:
        with self._database.session(read_only=True) as session:
            found = list_jobs(session, target=target, state=state, after_id=after, limit=size + 1)
            more = page_token(_LIST, str(found[size - 1].id)) if len(found) > size else ""
            return measure_pb2.ListJobsResponse(jobs=map(job_to_proto, found[:size]), next_page_token=more)

    def _changed(self, shown: Mapping[int, JobProgress]) -> list[tuple[JobProgress, measure_pb2.Job]]:
        """Those jobs that are not as they were shown, by their order there."""
        with self._database.session(read_only=True) as session:
            now = job_progress(session, shown)
            changed = [id_ for id_, progress in shown.items() if now.get(id_) != progress]
            return [(now[job.id], job_to_proto(job)) for job in get_jobs(session, changed)]

    def _cancel(self, ids: Sequence[int], caller: Caller) -> list[measure_pb2.Job]:
        with self._database.session() as session:
            for job in get_jobs(session, ids):
                if caller.scope != "admin" and job.user != caller.name:
                    raise PermissionDenied(
                        f"Job {job.id} is not one of '{caller.name}'.", "Ask its user, or an administrator."
                    )
            return [job_to_proto(job) for job in cancel_jobs(session, ids)]
