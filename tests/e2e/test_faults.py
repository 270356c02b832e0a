"""Killed at random moments, cut off, out of disk space: what was promised must hold nevertheless."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from milliseek.client import Client
from milliseek.db.engine import Database
from milliseek.db.models import Job
from milliseek.errors import MilliseekError
from milliseek.results import Job as JobResult

from .programs import Line, Program, free_port, small_model, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("MILLISEEK_KILLS", "25"))
"""More of them take longer: a hundred take a minute and a half."""
JOBS = 2 * KILLS
AGENTS = ("board-a", "board-b")
TARGET = "board/onnxruntime/fp32"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def run(name: str, *arguments: str) -> Program:
        programs.append(Program(tmp_path / "home", name, *arguments))
        return programs[-1]

    yield run
    for program in programs:
        program.kill_child()
        program.kill()


def agent(start: Callable[..., Program], name: str, port: int) -> Program:
    return start(name, "agent", "--server", f"127.0.0.1:{port}", "--name", name, "--model", "board")


def ended(database: Database) -> dict[int, tuple[str, object]]:
    """State and result of every job that has ended."""
    with database.session(read_only=True) as session:
        rows = session.query(Job).filter(Job.ended_at.is_not(None))
        return {job.id: (job.state, job.result) for job in rows}


def test_nothing_is_lost_or_stored_twice_and_no_job_is_stuck(tmp_path: Path, start: Callable[..., Program]) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    url = f"sqlite:///{tmp_path / 'milliseek.db'}"
    rng = random.Random(0)
    server = start("server", "serve", "--address", address, "--db", url)
    agents = [agent(start, name, port) for name in AGENTS]
    with Client(address) as client:
        client.wait_ready(60)
        sha256 = client.upload(small_model(), name="net.onnx")
        until(lambda: len(connected(client)) == len(AGENTS), "both agents are connected")
        keys = [f"job-{i}" for i in range(JOBS)]
        submitted = client.submit([sha256] * JOBS, TARGET, visits=3, keys=keys)
        database = Database.open(url)
        seen: dict[int, tuple[str, object]] = {}
        try:
            for _ in range(KILLS):
                time.sleep(rng.uniform(0, 0.6))  # what is hit is to be left to chance
                victim = rng.choice([server, *agents, *agents])
                if victim is not server and rng.random() < 0.4:
                    victim.kill_child()
                else:
                    victim.kill()
                    victim.start()
                now = ended(database)
                assert all(now.get(id_) == before for id_, before in seen.items()), "an ended job changed"
                seen = now
            client.wait_ready(60)
            again = client.submit([sha256] * JOBS, TARGET, visits=3, keys=keys)
            assert [job.id for job in again] == [job.id for job in submitted], "the same keys are the same jobs"
            until(lambda: len(ended(database)) == JOBS, "all jobs have ended")
            final = ended(database)
        finally:
            database.close()
        jobs = client.jobs(submitted)
    assert all(final[id_] == before for id_, before in seen.items()), "an ended job changed"
    failed = [job for job in jobs if job.state == "failed"]
    assert all(job.tries == 3 for job in failed), "only what was killed at every try may fail"
    assert len(failed) <= JOBS / 10
    done = [job for job in jobs if job.state == "done"]
    assert len(done) + len(failed) == JOBS
    assert all(len(job.visits) == 3 and job.visits[0].latency_ms > 0 for job in done)


def connected(client: Client) -> list[str]:
    with suppress(MilliseekError):
        return [device.name for device in client.devices() if device.connected]
    return []


def test_the_jobs_of_a_device_on_a_dead_line_go_to_another(tmp_path: Path, start: Callable[..., Program]) -> None:
    """Half-open: neither side hears that the connection is gone."""
    port = free_port()
    start("server", "serve", "--address", f"127.0.0.1:{port}", "--db", str(tmp_path / "milliseek.db"))
    with closing(Line(port)) as line, Client(f"127.0.0.1:{port}") as client:
        client.wait_ready(60)
        agent(start, "board-a", line.port)
        until(lambda: connected(client) == ["board-a"], "the agent is connected")
        jobs = client.submit([small_model()] * 40, TARGET, visits=5)
        until(lambda: any(job.state == "done" for job in client.jobs(jobs)), "a job is done")
        line.dead.set()
        agent(start, "board-b", port)
        ended_jobs = client.wait(jobs, timeout_s=600)
        check_done(ended_jobs)
        assert {job.device for job in ended_jobs} == {"board-a", "board-b"}
        line.dead.clear()
        until(lambda: len(connected(client)) == 2, "the agent behind the line is back")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(tmp_path: Path, start: Callable[..., Program]) -> None:
    disk, port = tmp_path / "disk", free_port()
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        server = start("server", "serve", "--address", f"127.0.0.1:{port}", "--db", str(disk / "milliseek.db"))
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_ready(60)
            agent(start, "board-a", port)
            until(lambda: bool(connected(client)), "the agent is connected")
            jobs = client.submit([small_model()] * 40, TARGET, visits=5)
            until(lambda: any(job.state == "done" for job in client.jobs(jobs)), "a job is done")
            fill(disk / "filler")
            until(lambda: "waits for the database" in server.log.read_text(), "the server notices")
            (disk / "filler").unlink()
            check_done(client.wait(jobs, timeout_s=600))
    finally:
        start_end = time.monotonic() + 30
        while subprocess.run(["umount", disk], check=False, capture_output=True).returncode:
            server.kill()
            assert time.monotonic() < start_end, "the disk stays mounted"
            time.sleep(0.2)


def fill(file: Path) -> None:
    """Take all the space that is left."""
    with suppress(OSError), file.open("wb", buffering=0) as taken:
        while True:
            taken.write(bytes(1 << 12))


def check_done(jobs: list[JobResult]) -> None:
    assert [job.state for job in jobs] == ["done"] * len(jobs), [job.failure for job in jobs if job.failure]
    assert all(visit.latency_ms > 0 for job in jobs for visit in job.visits)
