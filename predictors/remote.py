"""A device elsewhere, over jobs in the database: an agent of this device, or of its model, does them."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import timedelta
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import String, and_, cast, or_, select, update
from sqlalchemy.orm import Session

from ..db.artefacts import record_artefact
from ..db.columns import utc_now
from ..db.devices import devices_serving
from ..db.engine import Database
from ..db.jobs import ENDED, JobKind, NewJob, cancel_jobs, delete_jobs, submit_jobs
from ..db.models import Artefact, Device, Job
from ..devices.protocol import Visit
from ..devices.runtimes.runtime import TensorInfo
from ..devices.target import Target
from ..errors import Busy, Interrupted, MeasurementError, NotReady
from .conversions import cache_folder, converted

WINDOW = 16
"""Jobs under way at a time: the agent always has the next one at hand."""
PATIENCE_S = 60.0
POLL_S, LOOK_S = 0.02, 1.0
"""Seconds between two looks at the jobs, and at who is connected."""
FRESH = timedelta(hours=1)
"""What an earlier run had measured, but did not fetch, is taken while it is no older."""

_VISIT = {field.name for field in fields(Visit)}

K = TypeVar("K")


class RemoteDevice:
    """The role of a measuring device (`devices.measuring_device`) for agents; safe to call from several threads.

    The key of a measurement is what it asks for, so a run that was killed finds what it had asked for when it comes
    again.
    What the runtime answered about a model is kept in the folder `cache`. Every call raises NotReady or Busy when no
    agent that takes jobs was connected for `patience_s` seconds, and Interrupted when its jobs were cancelled.
    """

    def __init__(
        self, database: Database, target: Target, runtime_version: str, *, patience_s: float = PATIENCE_S
    ) -> None:
        self.target = target
        self._database = database
        self._runtime_version = runtime_version
        self._patience_s = patience_s
        self._held: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool = False) -> None:  # noqa: ARG002 - it never waits
        """Cancel what is under way."""
        self._cancel(list(self._held))

    def optimise(self, model: bytes, *, hollow: bool = False) -> bytes:
        """The graph that the runtime there executes for `model`; see `MeasuringDevice`."""

        def ask(model: bytes) -> bytes:
            return self._answer("optimise", {"hollow": hollow}, model, "optimising")[1]

        return converted(cache_folder(self._database), model, f"{self._name}-{'hollow-' * hollow}optimised", ask)

    def tensor_shapes(self, instrumented: bytes, *, run: bool = True) -> dict[str, TensorInfo]:
        """Shape, dtype and small integer values of inputs and outputs; see `MeasuringDevice`."""

        def ask(model: bytes) -> bytes:
            result, _ = self._answer("shapes", {"run": run}, model, "running")
            return json.dumps(result["shapes"]).encode()

        answer = converted(cache_folder(self._database), instrumented, f"{self._name}-{'run-' * run}shapes.json", ask)
        return {
            name: TensorInfo(tuple(shape), dtype, None if values is None else tuple(values))
            for name, (shape, dtype, values) in json.loads(answer).items()
        }

    def measure(self, model: bytes, *, optimise: bool, visits: int = 1) -> list[Visit]:
        """Load a model once and time it `visits` times in a row; a model that fails yields visits with an `error`."""
        ((_, found),) = self._visits([(None, model)], optimise=optimise, visits=visits)
        return found

    def measure_many(
        self, candidates: Iterable[tuple[K, bytes]], *, optimise: bool = False
    ) -> Iterator[tuple[K, Visit]]:
        """One visit for each (key, model) as they are done, `WINDOW` of them under way.

        Candidates are asked for as they are sent off. A caller who stops cancels what is under way.
        """
        for key, (visit,) in self._visits(candidates, optimise=optimise):
            yield key, visit

    @property
    def _name(self) -> str:
        return f"{self.target}-{self._runtime_version}".replace("/", "_")

    def _visits(
        self, candidates: Iterable[tuple[K, bytes]], *, optimise: bool, visits: int = 1
    ) -> Iterator[tuple[K, list[Visit]]]:
        options = {"optimise": optimise, "visits": visits}
        for key, job, _ in self._done("measure", options, candidates):
            if job.result is None:
                yield key, [Visit.failed(job.failure or "It failed.")] * visits
            else:
                told = job.result["visits"]
                yield key, [Visit(**{name: visit[name] for name in _VISIT & visit.keys()}) for visit in told]

    def _answer(self, kind: JobKind, options: dict[str, Any], model: bytes, doing: str) -> tuple[dict[str, Any], bytes]:
        ((_, job, data),) = self._done(kind, options, [(None, model)])
        if job.result is None:
            raise MeasurementError(
                f"The runtime failed while {doing} the model: {job.failure}", "Check that it runs in the runtime alone."
            )
        return job.result, data

    def _done(
        self, kind: JobKind, options: dict[str, Any], candidates: Iterable[tuple[K, bytes]]
    ) -> Iterator[tuple[K, Job, bytes]]:
        """Each candidate's key with its job, done or failed, and the bytes that came back, as they end."""
        waiting: dict[int, tuple[K, bytes]] = {}
        coming = iter(candidates)
        try:
            while True:
                for key, model in islice(coming, WINDOW - len(waiting)):
                    id_ = self._submit(kind, options, model, waiting)
                    waiting[id_] = key, model
                    self._held.add(id_)
                if not waiting:
                    return
                ended, lost = self._wait(list(waiting))
                # Another program that asks the same was given the answer: ask again.
                coming = chain([waiting.pop(id_) for id_ in lost], coming)
                self._held.difference_update(lost)
                for job in ended:
                    if job.state == "cancelled":
                        raise Interrupted(f"Job {job.id} on {self.target} was cancelled.", "Run the command again.")
                    data = self._database.artefacts.read(job.result_sha256) if job.result_sha256 else b""
                    self._held.discard(job.id)
                    try:
                        yield waiting.pop(job.id)[0], job, data
                    finally:  # not before the caller came back, having stored it: the same question is a new one now
                        self._forget(job)
        finally:
            self._cancel(list(waiting))

    def _forget(self, job: Job) -> None:
        if (job.kind, job.state) == ("measure", "done"):  # there are thousands of those; the others are kept a while
            with self._database.session() as session:
                for sha256 in delete_jobs(session, [job.id]):
                    self._database.artefacts.discard(sha256)  # before the commit: see `_submit`

    def _cancel(self, ids: Sequence[int]) -> None:
        if ids:
            with self._database.session() as session:
                cancel_jobs(session, session.scalars(select(Job.id).where(Job.id.in_(ids))).all())
            self._held.difference_update(ids)

    def _submit(self, kind: JobKind, options: dict[str, Any], model: bytes, taken: Collection[int]) -> int:
        """The id of a job that is none of those `taken`."""
        store = self._database.artefacts
        sha256 = store.put(model, "payload", durable=False)
        if kind == "measure":
            asked = json.dumps([str(self.target), self._runtime_version, options, sha256])
            name = hashlib.sha256(asked.encode()).hexdigest()
            keys = [f"{name}-{number}" for number in range(WINDOW)]
        else:
            keys = [uuid.uuid4().hex]
        with self._database.session() as session:
            # From here on nobody forgets the file. Somebody may have done so since it was put there.
            session.scalar(select(Artefact.sha256).where(Artefact.sha256 == sha256).with_for_update())
            record_artefact(session, sha256, "payload", len(model))
            if not store.holds(sha256):
                store.put(model, "payload", durable=False)
            _free_keys(session, keys)
            for key in keys:
                new = NewJob(
                    key=key,
                    target=str(self.target),
                    device=self.target.device,
                    kind=kind,
                    options=options,
                    payload_sha256=sha256,
                    payload_bytes=len(model),
                    priority=0 if kind == "measure" else 1,  # somebody waits for that, and it is soon done
                )
                (job,) = submit_jobs(session, [new])
                if job.id not in taken:
                    return job.id
        raise AssertionError("more jobs are under way than the window allows")

    def _wait(self, ids: Sequence[int]) -> tuple[list[Job], list[int]]:
        """Those of the jobs that have ended, and the ids of those that are gone, as soon as there is one."""
        now = time.monotonic()
        deadline, look_at = now + self._patience_s, now
        while True:
            with self._database.session(read_only=True) as session:
                jobs = session.scalars(select(Job).where(Job.id.in_(ids))).all()
                ended = [job for job in jobs if job.state in ENDED]
                lost = set(ids).difference(job.id for job in jobs)
                if ended or lost:
                    return ended, sorted(lost)
                now = time.monotonic()
                if now >= look_at:
                    devices = devices_serving(session, self.target.device)
                    if any(device.connected and _takes_jobs(device, jobs) for device in devices):
                        deadline = now + self._patience_s
                    elif now >= deadline:
                        raise self._nobody(devices)
                    look_at = min(now + LOOK_S, deadline)
            time.sleep(POLL_S)

    def _nobody(self, devices: Sequence[Device]) -> NotReady | Busy:
        name = self.target.device
        if any(device.connected for device in devices):
            return Busy(f"{name} takes no jobs now: it is being drained.", f"End that: milliseek devices resume {name}")
        seen = max((device.last_seen_at for device in devices if device.last_seen_at is not None), default=None)
        when = "was never connected" if seen is None else f"was last seen at {seen:%Y-%m-%d %H:%M:%S} UTC"
        return NotReady(
            f"No agent of {name} is connected; it {when}.",
            "Start the server (milliseek serve) and, there, the agent: milliseek agent --server HOST:PORT",
        )


def _takes_jobs(device: Device, jobs: Sequence[Job]) -> bool:
    """Whether it takes further ones, or finishes one of these."""
    return device.state == "active" or any(job.state == "leased" and job.lease_device == device.name for job in jobs)


def _free_keys(session: Session, keys: Sequence[str]) -> None:
    """Let the keys of jobs that came to nothing, or ended too long ago, stand for new ones."""
    too_old = and_(Job.state == "done", Job.ended_at < utc_now() - FRESH)
    of_no_use = or_(Job.state.in_(("failed", "cancelled")), too_old)
    session.execute(
        update(Job)
        .where(Job.user == "", Job.key.in_(keys), of_no_use)
        .values(key=Job.key + "/" + cast(Job.id, String))
        .execution_options(synchronize_session=False)
    )
