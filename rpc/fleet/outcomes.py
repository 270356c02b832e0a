"""What devices answer: judged, and stored exactly once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from ...db.artefacts import ArtefactStore
from ...db.engine import Database
from ...db.jobs import ENDED, complete_job, fail_job
from ...db.models import Artefact
from ...db.streams import LeasedJob, leased_jobs
from ...errors import InvalidInput
from ..limits import MIB
from ..v1 import device_pb2
from .payloads import keep_payload, record_payload

MAX_RESULT = 2 * MIB
"""Characters of a result: with its payload it stays below gRPC's 4 MiB."""
MAX_REASON = 1000

_VISIT_NUMBERS = ("spread_ms", "probe_before_ms", "probe_after_ms", "probe_best_ms")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_DTYPE = re.compile(r"[a-z0-9_()<>]{1,40}", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """What the device `device` answered."""

    device: str
    message: device_pb2.JobOutcome

    @property
    def lease(self) -> str:
        """The lease under which it was done."""
        return self.message.lease


@dataclass(frozen=True)
class _Failed:
    """A try that gave nothing."""

    reason: str
    retry: bool


@dataclass(frozen=True)
class _Done:
    """A result that is fit to be stored."""

    result: dict[str, Any]
    sha256: str | None


def store_outcomes(database: Database, outcomes: Sequence[Outcome]) -> list[int]:
    """Store outcomes in one transaction; returns the ids of the jobs that they are of.

    An answer that cannot be used fails its try, with the reason: it would not get better by being sent again. What
    comes too late, twice or from another device changes nothing. Raises StorageError, and then nothing is stored.
    """
    with database.session(read_only=True) as session:
        jobs = leased_jobs(session, {outcome.lease for outcome in outcomes})
    answered = [
        (outcome, job)
        for outcome in outcomes
        if (job := jobs.get(outcome.lease)) is not None and job.device == outcome.device and job.state not in ENDED
    ]
    if not answered:
        return []
    sent = [
        keep_payload(database.artefacts, outcome.message.payload)
        if outcome.message.payload and job.kind == "optimise"
        else ""
        for outcome, job in answered
    ]
    with database.session() as session:
        for (outcome, job), sha256 in zip(answered, sent, strict=True):
            _store(session, database.artefacts, outcome, job, sha256)
    return [job.id for _, job in answered]


def _store(session: Session, store: ArtefactStore, outcome: Outcome, job: LeasedJob, sent_sha256: str) -> None:
    try:
        judged = _judge(session, store, outcome.message, job, sent_sha256)
    except InvalidInput as error:
        judged = _Failed(error.message, retry=True)
    if isinstance(judged, _Failed):
        fail_job(session, outcome.lease, outcome.device, judged.reason, retry=judged.retry)
    else:
        complete_job(session, outcome.lease, outcome.device, judged.result, judged.sha256)


def _judge(
    session: Session, store: ArtefactStore, message: device_pb2.JobOutcome, job: LeasedJob, sent_sha256: str
) -> _Done | _Failed:
    if message.failure:
        return _Failed(_sentence(message.failure), message.retry)
    result = _parse(message.result_json)
    match job.kind:
        case "measure":
            _check_measured(result, job.options)
            if errors := [visit["error"] for visit in result["visits"] if visit.get("error")]:
                return _Failed(_sentence(errors[0]), retry=False)
            sha256 = None
        case "shapes":
            _check_shapes(result)
            sha256 = None
        case _:
            sha256 = _payload(session, store, message, sent_sha256)
    for name in ("temperature_c", "cpu_mhz"):
        if message.HasField(name) and math.isfinite(getattr(message, name)):
            result[name] = getattr(message, name)
    return _Done(result, sha256)


def _parse(text: str) -> dict[str, Any]:
    """The result as the database can keep it on any server: an object, finite numbers, proper Unicode."""
    if len(text) > MAX_RESULT:
        raise _unusable(f"its result has more than {MAX_RESULT} characters")
    try:
        result = json.loads(text)
        proper = json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _unusable("its result is not JSON") from error
    if not isinstance(result, dict) or b"\0" in proper or b"\\u0000" in proper:
        raise _unusable("its result is not a JSON object")
    return result


def _check_measured(result: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    visits = result.get("visits")
    if not isinstance(visits, list) or len(visits) != options.get("visits", 1):
        raise _unusable("it has not the visits that were asked for")
    if result.get("probe_best_ms") is not None and not _is_number(result["probe_best_ms"]):
        raise _unusable("its best probe is no number")
    for visit in visits:
        if not isinstance(visit, dict):
            raise _unusable("a visit is no object")
        if isinstance(visit.get("error"), str) and visit["error"]:
            continue
        numbers = [visit.get(name, 0.0) for name in (*_VISIT_NUMBERS, "runs")]
        if not all(map(_is_number, [visit.get("latency_ms"), *numbers])) or visit["latency_ms"] < 0:
            raise _unusable("a visit has no latency, or one that is none")
        if not isinstance(visit.get("runs", 0), int) or not isinstance(visit.get("disturbed", False), bool):
            raise _unusable("a visit has fields of another type")
        if not 0 <= visit.get("runs", 0) < 2**31:
            raise _unusable("a visit has an impossible number of runs")


def _check_shapes(result: Mapping[str, Any]) -> None:
    shapes = result.get("shapes")
    if not isinstance(shapes, dict) or not all(map(_is_tensor, shapes.values())):
        raise _unusable("it tells no shapes")


def _is_tensor(entry: object) -> bool:
    if not isinstance(entry, list) or len(entry) != 3:
        return False
    shape, dtype, values = entry
    return (
        isinstance(shape, list)
        and all(isinstance(size, int) for size in shape)
        and isinstance(dtype, str)
        and _DTYPE.fullmatch(dtype) is not None
        and (values is None or (isinstance(values, list) and all(isinstance(value, int) for value in values)))
    )


def _payload(session: Session, store: ArtefactStore, message: device_pb2.JobOutcome, sent_sha256: str) -> str:
    """SHA-256 of the recorded artefact that belongs to a result."""
    if sent_sha256:
        if message.payload_sha256 not in ("", sent_sha256):
            raise _unusable("its bytes are not those of its SHA-256")
        record_payload(session, store, sent_sha256, len(message.payload))
        return sent_sha256
    if not message.payload_sha256 or session.get(Artefact, message.payload_sha256) is None:
        raise _unusable("the bytes of its result were not sent")
    return message.payload_sha256


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _sentence(text: str) -> str:
    """What a device says, as one line of limited length."""
    line = " ".join(_CONTROL.sub(" ", text[: 4 * MAX_REASON]).split())
    return (line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…") or "The device gave no reason."


def _unusable(why: str) -> InvalidInput:
    return InvalidInput(f"The device's answer cannot be used: {why}.", "Install the same version of milliseek there.")
