"""What requests to DeviceService and MeasureService may ask for: the checks that need no database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...db.jobs import JobState
from ...errors import InvalidInput
from ..limits import MIB, TooLarge, check_sha256, check_target
from ..v1 import device_pb2, measure_pb2
from .convert import STATES

MAX_CAPACITY = 64
MAX_JOBS = 1000
MAX_KEY = 100
MAX_VISITS = 100
MAX_PRIORITY = 100

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_LEASE = re.compile(r"[0-9a-f]{16,64}")
_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_FACT = 200
_MAX_FACTS = 200
_MAX_PAYLOAD = MIB
_MAX_MEMORY = 1 << 50
_MAX_CORES = 4096


def check_device(name: str, what: str = "device") -> str:
    """The name itself; raises `InvalidInput` unless it can stand in a target and is not `local`."""
    if not _DEVICE.fullmatch(name) or name == "local":
        raise InvalidInput(
            f"{_shown(name)} is not the name of a {what}.",
            "Names are letters, digits, dots, dashes and underscores, at most 100; 'local' means the server itself.",
        )
    return name


def check_facts(facts: device_pb2.DeviceFacts) -> None:
    """Raise `InvalidInput` for facts that no machine tells."""
    runtimes = [text for pair in facts.runtimes.items() for text in pair]
    texts = [facts.cpu_model, facts.architecture, facts.os, *facts.isa, *runtimes]
    if len(texts) > _MAX_FACTS or any(len(text) > _MAX_FACT or _CONTROL.search(text) for text in texts):
        raise InvalidInput(
            "The device says more about itself than the service takes.",
            f"Send at most {_MAX_FACTS} texts of at most {_MAX_FACT} printable characters.",
        )
    if facts.memory_bytes > _MAX_MEMORY or facts.cores > _MAX_CORES:
        raise InvalidInput(
            f"No device has {facts.cores} cores and {facts.memory_bytes} bytes of memory.", "Send what is there."
        )


def check_hello(request: device_pb2.WorkRequest | None) -> device_pb2.Hello:
    """The first message of a stream; raises `InvalidInput` for anything else."""
    if request is None or request.WhichOneof("message") != "hello":
        raise InvalidInput("The stream does not begin with a hello.", "Say first which device it is.")
    hello = request.hello
    check_device(hello.device)
    if not 1 <= hello.capacity <= MAX_CAPACITY:
        raise InvalidInput(f"A device cannot hold {hello.capacity} jobs.", f"Ask for 1 to {MAX_CAPACITY}.")
    if len(hello.agent_version) > _MAX_FACT:
        raise InvalidInput("The version of the agent is none.", "Send the version of milliseek.")
    return hello


def check_heartbeat(heartbeat: device_pb2.Heartbeat) -> Sequence[str]:
    """The leases that a device holds."""
    if len(heartbeat.leases) > 4 * MAX_CAPACITY:
        raise TooLarge(f"A device holds {len(heartbeat.leases)} jobs.", f"Hold at most {MAX_CAPACITY}.")
    return [check_lease(lease) for lease in heartbeat.leases]


def check_outcome(outcome: device_pb2.JobOutcome) -> device_pb2.JobOutcome:
    """The outcome itself, whose content is judged where the job is known."""
    check_lease(outcome.lease)
    if outcome.payload_sha256:
        check_sha256(outcome.payload_sha256, "The SHA-256 of the result")
    if len(outcome.payload) > _MAX_PAYLOAD:
        raise TooLarge(
            f"A result has {len(outcome.payload)} bytes.", f"Send more than {_MAX_PAYLOAD} bytes with UploadPayload."
        )
    return outcome


def check_lease(lease: str) -> str:
    """The lease itself; raises `InvalidInput` for what is none."""
    if not _LEASE.fullmatch(lease):
        raise InvalidInput(f"{_shown(lease)} is not a lease.", "Send the lease that came with the job.")
    return lease


def check_upload(request: device_pb2.UploadPayloadRequest | None, limit_bytes: int) -> device_pb2.UploadPayloadHeader:
    """The header of the upload of a result, from its first message."""
    if request is None or request.WhichOneof("payload") != "header":
        raise InvalidInput("The upload does not begin with a header.", "Send the lease and the size first.")
    check_lease(request.header.lease)
    if not 0 < request.header.size_bytes <= limit_bytes:
        raise TooLarge(
            f"A result of {request.header.size_bytes} bytes is not taken.",
            f"Send 1 byte to {limit_bytes / MIB:g} MiB, or raise the service's limit.",
        )
    return request.header


def check_new_jobs(jobs: Sequence[measure_pb2.NewJob]) -> None:
    """Raise `InvalidInput` or `TooLarge` unless these can be jobs."""
    _check_count(len(jobs), "jobs")
    for job in jobs:
        if not 1 <= len(job.idempotency_key) <= MAX_KEY or _CONTROL.search(job.idempotency_key):
            raise InvalidInput(
                f"{_shown(job.idempotency_key)} is not an idempotency key.",
                f"Choose 1 to {MAX_KEY} printable characters, new ones for each new job, for example a UUID.",
            )
        check_target(job.target)
        check_sha256(job.sha256)
        if job.visits > MAX_VISITS:
            raise InvalidInput(f"{job.visits} visits are too many.", f"Ask for at most {MAX_VISITS} in one job.")
        if abs(job.priority) > MAX_PRIORITY:
            raise InvalidInput(
                f"{job.priority} is not a priority.", f"Choose one from {-MAX_PRIORITY} to {MAX_PRIORITY}."
            )


def check_ids(ids: Iterable[str]) -> list[int]:
    """The numbers of jobs; raises `InvalidInput` for what is no id, or too many."""
    numbers = []
    for id_ in ids:
        if not _ID.fullmatch(id_):
            raise InvalidInput(f"{_shown(id_)} is not the id of a job.", "Send an id as SubmitJobs returned it.")
        numbers.append(int(id_))
    _check_count(len(numbers), "ids")
    return numbers


def check_state(state: measure_pb2.JobState) -> JobState | None:
    """The state's name in the database, None for any; raises `InvalidInput` for an unknown number."""
    if state == measure_pb2.JOB_STATE_UNSPECIFIED:
        return None
    for name, known in STATES.items():
        if state == known:
            return name
    raise InvalidInput(f"{state} is not the state of a job.", "Use a value of JobState.")


def _check_count(count: int, what: str) -> None:
    if not count:
        raise InvalidInput(f"The request has no {what}.", f"Send 1 to {MAX_JOBS}.")
    if count > MAX_JOBS:
        raise TooLarge(f"The request has {count} {what}.", f"Send at most {MAX_JOBS} at a time.")


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")
