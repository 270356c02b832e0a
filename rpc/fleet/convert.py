"""The messages of DeviceService and MeasureService from the rows of the database."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp

from ...db.columns import utc_now
from ...db.jobs import JobState
from ...db.models import Device, Job
from ..v1 import device_pb2, measure_pb2

MODEL_OPTION = "model"
"""The option of a job in which the SHA-256 of the uploaded model stands; its payload is what was made of that."""

STATES: dict[JobState, measure_pb2.JobState] = {
    "queued": measure_pb2.JOB_STATE_QUEUED,
    "leased": measure_pb2.JOB_STATE_LEASED,
    "done": measure_pb2.JOB_STATE_DONE,
    "failed": measure_pb2.JOB_STATE_FAILED,
    "cancelled": measure_pb2.JOB_STATE_CANCELLED,
}
_DEVICE_STATES = {
    "active": device_pb2.DEVICE_STATE_ACTIVE,
    "draining": device_pb2.DEVICE_STATE_DRAINING,
}


def device_to_proto(device: Device) -> device_pb2.Device:
    """The message of a device."""
    message = device_pb2.Device(
        name=device.name,
        kind=device.kind,
        model=device.model or "",
        state=_DEVICE_STATES.get(device.state, device_pb2.DEVICE_STATE_UNSPECIFIED),
        connected=device.connected_until is not None and device.connected_until > utc_now(),
        last_seen_at=_timestamp(device.last_seen_at),
    )
    message.facts.update(device.facts)
    return message


def facts_from_proto(message: device_pb2.DeviceFacts) -> dict[str, Any]:
    """What the database keeps of the facts of a device."""
    return {
        "cpu_model": message.cpu_model,
        "architecture": message.architecture,
        "isa": list(message.isa),
        "cores": message.cores,
        "memory_bytes": message.memory_bytes,
        "os": message.os,
        "runtimes": dict(message.runtimes),
    }


def assignment(job: Job, payload: bytes) -> device_pb2.WorkResponse:
    """The message that hands out a job; `payload` is empty where the file is to be downloaded."""
    return device_pb2.WorkResponse(
        job=device_pb2.JobAssignment(
            lease=job.lease,
            kind=job.kind,
            target=job.target,
            options_json=json.dumps(job.options),
            payload=payload,
            payload_sha256=job.payload_sha256,
            payload_bytes=job.payload_bytes,
            time_limit_s=job.time_limit_s,
        )
    )


def job_to_proto(job: Job) -> measure_pb2.Job:
    """The message of a job; one that is not of MeasureService names its payload instead of a model."""
    visits = (job.result or {}).get("visits", ()) if job.kind == "measure" else ()
    return measure_pb2.Job(
        id=str(job.id),
        idempotency_key=job.key,
        user=job.user,
        target=job.target,
        sha256=job.options.get(MODEL_OPTION, job.payload_sha256),
        state=STATES[cast("JobState", job.state)],
        priority=job.priority,
        tries=job.tries,
        device=(job.lease_device or "") if job.state in ("leased", "done", "failed") else "",
        visits=[_visit_to_proto(visit) for visit in visits],
        failure=job.failure or "",
        created_at=_timestamp(job.created_at),
        ended_at=_timestamp(job.ended_at),
    )


def _visit_to_proto(visit: dict[str, Any]) -> measure_pb2.Visit:
    return measure_pb2.Visit(**{field.name: visit[field.name] for field in _VISIT_FIELDS if field.name in visit})


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


_VISIT_FIELDS = measure_pb2.Visit.DESCRIPTOR.fields
