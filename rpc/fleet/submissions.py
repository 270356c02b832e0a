"""From an uploaded model and a target to a job: is there such a device, and what does it run for that model?"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from ...db.devices import devices_serving
from ...db.engine import Database
from ...db.jobs import NewJob, submit_jobs
from ...db.models import Job
from ...db.streams import find_jobs
from ...devices.protocol import ProtocolConfig
from ...errors import InvalidInput, NotReady, ServiceError
from ...predictors.conversions import cache_folder
from ...predictors.networks.files import ModelForm, load_network
from ...predictors.networks.model_reader import ModelReader
from ...predictors.targets import DeviceTarget, device_target, parse_target
from ..v1 import measure_pb2
from .convert import MODEL_OPTION
from .payloads import keep_payload, record_payload

_PROTOCOL = ProtocolConfig()


@dataclass(frozen=True)
class _Payload:
    """The file that a target runs for a model, stored but not recorded yet."""

    target: DeviceTarget
    sha256: str
    size_bytes: int


class Submissions:
    """Makes jobs of what MeasureService is asked for. Models are parsed and converted in a child process.

    Safe to call from many threads; close it at the end.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = ModelReader()

    def close(self) -> None:
        """End the child process."""
        self._reader.close()

    def submit(self, jobs: Sequence[measure_pb2.NewJob], user: str, given_up: threading.Event) -> list[Job]:
        """The jobs in the order of the request; those whose keys are known are not prepared again.

        Raises NotFound for an unknown model or device, NotReady for a device without an agent, InvalidInput for a
        model that the target does not run, or a key that was used for another job. Stops between two models when
        the caller has `given_up`; nothing is submitted then.
        """
        with self._database.session(read_only=True) as session:
            known = find_jobs(session, user, list({job.idempotency_key for job in jobs}))
        payloads: dict[tuple[str, str], _Payload] = {}
        wanted = []
        for job in jobs:
            if (row := known.get(job.idempotency_key)) is not None:
                wanted.append(_known(job, row))
                continue
            subject = str(parse_target(job.target)), job.sha256
            if subject not in payloads:
                if given_up.is_set():
                    raise ServiceError("Nobody waits for this request any more.", "Send it again.")
                payloads[subject] = self._prepare(*subject)
            wanted.append(_new(job, user, payloads[subject]))
        with self._database.session() as session:
            for payload in payloads.values():
                record_payload(session, self._database.artefacts, payload.sha256, payload.size_bytes)
            return submit_jobs(session, wanted)

    def _prepare(self, name: str, sha256: str) -> _Payload:
        target = device_target(self._database, name)
        self._check_agents(target)
        data, file = load_network(self._database, sha256)
        prepared = self._reader.prepare(cache_folder(self._database), data, ModelForm.of(target), file).data
        if target.precision == "fp32" and self._reader.precision(prepared, file) != "fp32":
            raise InvalidInput(
                f"{file} is a quantised file, and '{target.name}' asks for fp32.",
                "Name the int8 target, or upload the fp32 file.",
            )
        return _Payload(target, keep_payload(self._database.artefacts, prepared), len(prepared))

    def _check_agents(self, target: DeviceTarget) -> None:
        with self._database.session(read_only=True) as session:
            serving = devices_serving(session, target.target.device)
        if not any(device.kind == "agent" or device.last_seen_at is not None for device in serving):
            raise NotReady(
                f"The device of '{target.name}' has no agent, so that nobody would take the job.",
                "Start one there: milliseek agent --server HOST:PORT",
            )


def _new(job: measure_pb2.NewJob, user: str, payload: _Payload) -> NewJob:
    visits = job.visits or 1
    return NewJob(
        key=job.idempotency_key,
        target=payload.target.name,
        device=payload.target.target.device,
        kind="measure",
        options={"optimise": True, "visits": visits, MODEL_OPTION: job.sha256},
        payload_sha256=payload.sha256,
        payload_bytes=payload.size_bytes,
        user=user,
        priority=job.priority,
        time_limit_s=_PROTOCOL.time_limit_s + visits * _PROTOCOL.patience_ms / 1e3,
    )


def _known(job: measure_pb2.NewJob, row: Job) -> NewJob:
    """What the job would be now, with the file that was made for it then: other conversions are not other content."""
    return NewJob(
        key=row.key,
        target=str(parse_target(job.target)),
        device=row.device,
        kind="measure",
        options={**row.options, "visits": job.visits or 1, MODEL_OPTION: job.sha256},
        payload_sha256=row.payload_sha256,
        payload_bytes=row.payload_bytes,
        user=row.user,
        priority=job.priority,
        max_tries=row.max_tries,
        time_limit_s=row.time_limit_s,
    )
