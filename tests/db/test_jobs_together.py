"""Several servers at once on one database: threads and processes that lease, answer and store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

from sqlalchemy import func, select

from milliseek.db import devices, jobs
from milliseek.db.artefacts import record_artefact
from milliseek.db.engine import Database
from milliseek.db.jobs import NewJob
from milliseek.db.models import Job, Measurement

PAYLOAD = "ab" * 32
ONE = NewJob("", "board/o/fp32", "board", "measure", {}, PAYLOAD, 1)
LEASE_S = 600.0
SERVERS = 4
JOBS = 60

PROCESS = """
import json, sys
from milliseek.db import devices, jobs, measurements
from milliseek.db.columns import utc_now
from milliseek.db.engine import Database
database = Database.open(sys.argv[1], create=False)
name = sys.argv[2]
with database.session() as session:
    device = devices.upsert_device(session, name, "agent", {}, "board")
    target = devices.get_or_create_target(session, name + "/o/fp32", device_id=device.id, runtime="o", precision="fp32")
print("ready", flush=True)
sys.stdin.readline()
stored = []
while True:
    with database.session() as session:
        leased = jobs.lease_jobs(session, name, 3, 600.0)
        waiting = jobs.queued_devices(session)
    for job in leased:
        with database.session() as session:
            of = job.id % 7
            (kernel,) = measurements.get_or_create_kernels(session, [(f"kernel{of}", "conv", {"i": of})])
            visit = measurements.NewMeasurement(
                target_id=target.id, kernel_id=kernel, latency_ms=1.0, runs=1, sitting=job.lease,
                runtime_version="1", measured_at=utc_now(),
            )
            if jobs.complete_job(session, job.lease, name, {"by": name}, None):
                measurements.add_measurements(session, [visit])
                stored.append(job.id)
    if not leased and not waiting:
        break
print(json.dumps(stored))
"""


def fill(database: Database, users: int = 2) -> None:
    with database.session() as session:
        record_artefact(session, PAYLOAD, "payload", 1)
        for server in range(SERVERS):
            devices.upsert_device(session, f"board-{server}", "agent", {}, "board")
        jobs.submit_jobs(session, [replace(ONE, key=f"{i}", user=f"user{i % users}") for i in range(JOBS)])


def test_no_job_is_leased_twice(database: Database) -> None:
    fill(database)
    start = Barrier(SERVERS)

    def serve(server: int) -> list[int]:
        start.wait()
        mine: list[int] = []
        while True:
            with database.session() as session:
                leased = jobs.lease_jobs(session, f"board-{server}", 2, LEASE_S)
                waiting = jobs.queued_devices(session)
            mine += [job.id for job in leased]
            if not leased and not waiting:
                return mine

    with ThreadPoolExecutor(SERVERS) as pool:
        taken = Counter(id_ for mine in pool.map(serve, range(SERVERS)) for id_ in mine)
    assert len(taken) == JOBS
    assert set(taken.values()) == {1}


def test_one_lease_answered_by_several_servers_at_once_is_stored_once(database: Database) -> None:
    fill(database)
    with database.session() as session:
        leases = [job.lease or "" for job in jobs.lease_jobs(session, "board-0", 20, LEASE_S)]
    start = Barrier(SERVERS)

    def answer(server: int) -> list[str]:
        start.wait()
        accepted = []
        for lease in leases:
            with database.session() as session:
                if jobs.complete_job(session, lease, "board-0", {"by": server}, None):
                    accepted.append(lease)
        return accepted

    with ThreadPoolExecutor(SERVERS) as pool:
        accepted = list(pool.map(answer, range(SERVERS)))
    assert sorted(lease for mine in accepted for lease in mine) == sorted(leases)
    with database.session(read_only=True) as session:
        for server, mine in enumerate(accepted):
            results = session.scalars(select(Job.result).where(Job.lease.in_(mine)))
            assert all(result == {"by": server} for result in results)


def test_submitting_the_same_batch_at_once_makes_each_job_once(database: Database) -> None:
    with database.session() as session:
        record_artefact(session, PAYLOAD, "payload", 1)
    start = Barrier(SERVERS)

    def submit(_: int) -> list[int]:
        start.wait()
        with database.session() as session:
            return [job.id for job in jobs.submit_jobs(session, [replace(ONE, key=f"{i}") for i in range(JOBS)])]

    with ThreadPoolExecutor(SERVERS) as pool:
        answers = list(pool.map(submit, range(SERVERS)))
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0])) == JOBS


def test_sweeping_while_devices_answer_loses_nothing(database: Database) -> None:
    fill(database)
    with database.session() as session:
        leases = [job.lease or "" for job in jobs.lease_jobs(session, "board-0", JOBS, 0.0)]  # expired at once
    start = Barrier(2)

    def sweep() -> int:
        start.wait()
        swept = 0
        for _ in leases:
            with database.session() as session:
                swept += jobs.expire_leases(session)
        return swept

    def answer() -> list[bool]:
        start.wait()
        accepted = []
        for lease in leases:
            with database.session() as session:
                accepted.append(jobs.complete_job(session, lease, "board-0", {}, None))
        return accepted

    with ThreadPoolExecutor(2) as pool:
        sweeping, answering = pool.submit(sweep), pool.submit(answer)
        assert all(answering.result())  # late or not: nobody else held them
        assert sweeping.result() <= JOBS
    with database.session(read_only=True) as session:
        assert set(session.scalars(select(Job.state))) == {"done"}


def test_two_processes_lease_and_store_measurements(database: Database) -> None:
    fill(database)
    names = ["board-0", "board-1"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, database.url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    stored = [id_ for output in _finish(processes) for id_ in json.loads(output)]
    assert len(stored) == len(set(stored)) == JOBS
    with database.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Measurement)) == JOBS
        assert session.scalar(select(func.count(Measurement.sitting.distinct()))) == JOBS
        done = session.execute(select(Job.lease_device, Job.result).where(Job.state == "done")).all()
    assert len(done) == JOBS
    assert all(result == {"by": device} for device, result in done)


def _finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Start all at once, and return what each printed."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        outputs.append(output)
    return outputs
