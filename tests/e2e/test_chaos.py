"""Servers, agents and measuring children are killed at random moments: what was promised must hold nevertheless."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from milliseek.client import Client
from milliseek.db.engine import Database
from milliseek.db.models import Job
from milliseek.errors import MilliseekError
from milliseek.predictors.networks import ModelForm, sample_networks
from milliseek.spaces.hyperspace import HYPERSPACES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 100
JOBS = 200
AGENTS = ("board-a", "board-b")
TARGET = "board/onnxruntime/fp32"
PATIENCE_S = 240.0


class Program:
    """One `milliseek` command that is started again whenever it was killed."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.log = folder / f"{name}.log"
        self._arguments = arguments
        self._environment = {**os.environ, "MILLISEEK_HOME": str(folder)}
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "milliseek", *self._arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_child(self) -> None:
        """The process that measures, if there is one."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                os.kill(child.pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def run(name: str, *arguments: str) -> Program:
        programs.append(Program(tmp_path, name, *arguments))
        return programs[-1]

    yield run
    for program in programs:
        program.kill_child()
        program.kill()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def small_model() -> bytes:
    ((_, model),) = sample_networks([HYPERSPACES["tiny32"]], 1, ModelForm("onnx", "fp32", 8), np.random.default_rng(0))
    return model.data


def ended(database: Database) -> dict[int, tuple[str, object]]:
    """State and result of every job that has ended."""
    with database.session(read_only=True) as session:
        rows = session.query(Job).filter(Job.ended_at.is_not(None))
        return {job.id: (job.state, job.result) for job in rows}


def test_nothing_is_lost_or_stored_twice_and_no_job_is_stuck(tmp_path: Path, start: Callable[..., Program]) -> None:
    address = f"127.0.0.1:{free_port()}"
    url = f"sqlite:///{tmp_path / 'milliseek.db'}"
    rng = random.Random(0)
    server = start("server", "serve", "--address", address, "--db", url)
    agents = [start(name, "agent", "--server", address, "--name", name, "--model", "board") for name in AGENTS]
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
