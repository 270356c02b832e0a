"""What a client asks the DeviceService and the MeasureService, as steps; see `Client` for what each is about."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import InvalidInput
from ..results import Device, Job, JobState
from ..rpc import convert
from ..rpc.v1 import device_pb2, measure_pb2
from .steps import BrokenAnswer, Call, Steps
from .upload import Model, sha256_of

PAGE = 1000
JOBS_PER_CALL = 1000
Jobs = Iterable[Job | str]
"""Jobs, or their ids."""


def devices() -> Steps[list[Device]]:
    """All devices, page after page."""
    found: list[Device] = []
    token = ""
    while True:
        request = device_pb2.ListDevicesRequest(page_size=PAGE, page_token=token)
        response: device_pb2.ListDevicesResponse = yield Call("ListDevices", request)
        found += map(_device, response.devices)
        if not (token := response.next_page_token):
            return found


def device(name: str) -> Steps[Device]:
    """One device."""
    return _device((yield Call("GetDevice", device_pb2.GetDeviceRequest(name=name))).device)


def drain_device(name: str, *, resume: bool) -> Steps[Device]:
    """Drain a device, or end that."""
    return _device((yield Call("DrainDevice", device_pb2.DrainDeviceRequest(name=name, resume=resume))).device)


def remove_device(name: str) -> Steps[None]:
    """Remove a device."""
    yield Call("RemoveDevice", device_pb2.RemoveDeviceRequest(name=name))


def submit(
    models: Iterable[Model], target: str, visits: int, priority: int, keys: Sequence[str] | None
) -> Steps[list[Job]]:
    """Upload what has to be, then submit a job for each model."""
    sha256s: list[str] = []
    for model in models:
        sha256s.append((yield from sha256_of(model)))  # noqa: PERF401 - a step cannot be taken in a comprehension
    if keys is None:
        # Made before the call: one that is repeated submits nothing twice.
        keys = [uuid.uuid4().hex for _ in sha256s]
    if len(keys) != len(sha256s):
        raise InvalidInput(f"There are {len(keys)} keys for {len(sha256s)} models.", "Give one key for each model.")
    new = [
        measure_pb2.NewJob(idempotency_key=key, target=target, sha256=sha256, visits=visits, priority=priority)
        for key, sha256 in zip(keys, sha256s, strict=True)
    ]
    found: list[Job] = []
    for start in range(0, len(new), JOBS_PER_CALL):
        request = measure_pb2.SubmitJobsRequest(jobs=new[start : start + JOBS_PER_CALL])
        found += _jobs((yield Call("SubmitJobs", request)), len(request.jobs))
    return found


def get_jobs(jobs: Jobs) -> Steps[list[Job]]:
    """Jobs as they are now."""
    return (yield from _by_ids("GetJobs", measure_pb2.GetJobsRequest, jobs))


def cancel(jobs: Jobs) -> Steps[list[Job]]:
    """Cancel jobs."""
    return (yield from _by_ids("CancelJobs", measure_pb2.CancelJobsRequest, jobs))


def job_page(target: str, state: JobState | None, page_token: str) -> Steps[tuple[list[Job], str]]:
    """A page of jobs, and the token of the next one, empty after the last."""
    request = measure_pb2.ListJobsRequest(
        target=target, state=f"JOB_STATE_{state.upper()}" if state else None, page_size=PAGE, page_token=page_token
    )
    response: measure_pb2.ListJobsResponse = yield Call("ListJobs", request)
    return _jobs(response, len(response.jobs)), response.next_page_token


def ids_of(jobs: Jobs) -> list[str]:
    """The ids of jobs."""
    return [job if isinstance(job, str) else job.id for job in jobs]


def job_of(message: measure_pb2.Job) -> Job:
    """The job in a message."""
    try:
        return convert.job_from_proto(message)
    except ValueError as error:
        raise BrokenAnswer(f"the job {message.id} is in a state unknown here") from error


def _by_ids(method: str, request: Any, jobs: Jobs) -> Steps[list[Job]]:
    ids = ids_of(jobs)
    found: list[Job] = []
    for start in range(0, len(ids), JOBS_PER_CALL):
        chosen = ids[start : start + JOBS_PER_CALL]
        found += _jobs((yield Call(method, request(ids=chosen))), len(chosen))
    return found


def _jobs(response: Any, count: int) -> list[Job]:
    if len(response.jobs) != count:
        raise BrokenAnswer(f"{len(response.jobs)} jobs where {count} were asked for")
    return [job_of(message) for message in response.jobs]


def _device(message: device_pb2.Device) -> Device:
    try:
        return convert.device_from_proto(message)
    except ValueError as error:
        raise BrokenAnswer(f"the device {message.name} is in a state unknown here") from error
