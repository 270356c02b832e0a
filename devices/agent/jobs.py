"""How an agent does a job: in a child process for the job's target, and what it answers."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from itertools import count
from typing import Any

from ...errors import InvalidInput, MeasurementError, MilliseekError
from ...rpc.v1.device_pb2 import JobAssignment, JobOutcome
from ..conditions import cpu_mhz, temperature_c
from ..local import LocalDevice
from ..protocol import ProtocolConfig, Visit
from ..target import Target, parse

ATTEMPTS = 3
"""Times that a model is measured before noise is taken for its own."""

_WORKERS = 3
_MAX_VISITS = 1000
_MAX_RESULT_BYTES = 1 << 20
_LOG = logging.getLogger(__name__)


class JobRunner:
    """Does one job at a time, so that nothing else runs while it measures.

    The process of a target stays open for the jobs to come, which share its best probe; a few targets may take turns.
    """

    def __init__(self, config: ProtocolConfig | None = None) -> None:
        self._config = config
        self._devices: dict[Target, LocalDevice] = {}
        self._current: LocalDevice | None = None

    def run(self, job: JobAssignment, model: bytes) -> tuple[JobOutcome, bytes]:
        """What became of the job, without its payload, and the payload, which may be too large for a message."""
        result: dict[str, Any] | None = None
        payload, failure, retry = b"", "", False
        target = self._current = None
        try:
            target = _checked_target(job.target)
            result, payload = self._answer(self._open(target, job), job, model)
        except _Disturbed as error:
            failure, retry = str(error), True
        except MilliseekError as error:
            # The process that died may have been killed by somebody; a model that is refused will be refused again.
            failure, retry = str(error), isinstance(error, MeasurementError) and self._has_died()
        except (
            RuntimeError
        ) as error:  # a bug of the worker: its traceback belongs into the log, one line into the answer
            _LOG.exception("lease=%s kind=%s", job.lease, job.kind)
            failure = f"The agent failed: {str(error).strip().splitlines()[-1]}"
        text = "" if result is None else json.dumps(result, allow_nan=False)
        if len(text) > _MAX_RESULT_BYTES:
            text, payload, failure = "", b"", f"The result of {len(text)} bytes is too large to be sent."
        outcome = JobOutcome(
            lease=job.lease,
            result_json=text,
            failure=failure,
            retry=retry,
            temperature_c=temperature_c(),
            cpu_mhz=cpu_mhz(target.cores if target else None),
        )
        return outcome, payload

    def interrupt(self) -> None:
        """Kill the process of the job under way, from another thread; `run` then returns soon."""
        if current := self._current:
            current.interrupt()

    def close(self) -> None:
        """End all processes; the next job begins a new sitting."""
        for device in self._devices.values():
            device.close()
        self._devices.clear()

    def _has_died(self) -> bool:
        return self._current is not None and self._current.worker_pid is None

    def _open(self, target: Target, job: JobAssignment) -> LocalDevice:
        device = self._devices.pop(target, None) or LocalDevice(target, self._config)
        self._devices[target] = self._current = device
        if len(self._devices) > _WORKERS:
            self._devices.pop(next(iter(self._devices))).close()  # the one that was not asked for longest
        device.time_limit_s = job.time_limit_s or device.config.time_limit_s
        device.memory_limit_bytes = job.memory_limit_bytes or None
        return device

    def _answer(self, device: LocalDevice, job: JobAssignment, model: bytes) -> tuple[dict[str, Any], bytes]:
        options = _options(job)
        match job.kind:
            case "measure":
                visits = _measure(device, model, bool(options.get("optimise", False)), options.get("visits", 1))
                rows = [dataclasses.asdict(visit) for visit in visits]
                return {"visits": rows, "probe_best_ms": device.probe_best_ms}, b""
            case "optimise":
                return {}, device.optimise(model, hollow=bool(options.get("hollow", False)))
            case "shapes":
                return {"shapes": device.tensor_shapes(model, run=bool(options.get("run", True)))}, b""
            case kind:
                raise InvalidInput(f"This agent does not know what a '{kind}' job is.", "Update milliseek there.")


class _Disturbed(Exception):
    """The gate never opened."""


def _measure(device: LocalDevice, model: bytes, optimise: bool, visits: Any) -> list[Visit]:
    """The visits of the first attempt that has a good one; the others among them carry their flag.

    A model that is noisy on a quiet machine is reported with its flags. Raises _Disturbed where the gate stayed shut
    all through its patience, MeasurementError where the model cannot be measured.
    """
    if not isinstance(visits, int) or not 1 <= visits <= _MAX_VISITS:
        raise InvalidInput(f"A job asks for {visits!r} visits.", f"Ask for 1 to {_MAX_VISITS}.")
    config = device.config
    given_up = time.monotonic() + config.gate_patience_s
    for attempt in count(1):
        found = device.measure(model, optimise=optimise, visits=visits)
        if error := next((visit.error for visit in found if visit.error), None):
            raise MeasurementError(error)
        if not all(visit.disturbed for visit in found):
            return found
        if attempt >= ATTEMPTS and any(visit.is_quiet(probe_threshold=config.probe_threshold) for visit in found):
            return found
        if time.monotonic() >= given_up:
            break
    raise _Disturbed(f"The machine was disturbed for {config.gate_patience_s:g} s: something else runs on it.")


def _checked_target(text: str) -> Target:
    target = parse(text)
    if target.delegate is not None or target.precision not in ("fp32", "int8"):
        raise InvalidInput(
            f"An agent cannot measure '{text}'.", "Use fp32 or int8 without a delegate, as in DEVICE/litert/int8."
        )
    return target


def _options(job: JobAssignment) -> dict[str, Any]:
    try:
        options = json.loads(job.options_json or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise InvalidInput("The options of a job are no JSON object.", "Use agent and service of the same version.")
    return options
