"""Servers that are killed at any moment: what they promised holds, and nothing is stuck."""

import random
import subprocess
import sys
from contextlib import contextmanager, suppress

import grpc
import pytest

SERVE = """
import sys
from milliseek.db.engine import Database
from milliseek.rpc.fleet.dispatcher import FleetConfig
from milliseek.rpc.server import serve

config = FleetConfig(heartbeat_s=0.3, lease_s=float(sys.argv[2]), poll_s=0.02, tend_s=0.05, retry_s=0.05)
serve(None, "127.0.0.1:0", database=Database.open(sys.argv[1]), fleet=config,
      on_ready=lambda address: print(address, flush=True))
"""


@contextmanager
def process(url, lease_s):
    """A server in a process of its own, which ends by SIGKILL; its address."""
    command = [sys.executable, "-c", SERVE, url, str(lease_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        try:
            yield served, served.stdout.readline().strip()
        finally:
            served.kill()


@pytest.fixture
def jobs(database, queue_of):
    return queue_of(database)


def test_an_agent_resumes_after_the_server_was_killed(url, jobs, agent):
    with process(url, 60) as (_, address):
        board = agent(address, capacity=2).ready()
        ids = jobs.put(count=2)
        leases = [board.expect("job").lease for _ in ids]
    with pytest.raises(grpc.RpcError):
        board.ended()
    with process(url, 60) as (_, address):
        again = agent(address, register=False)
        again.expect("welcome")
        again.answer(leases[0])
        again.beat(leases[1])
        again.answer(leases[1])
        assert [again.expect("taken").lease for _ in ids] == leases
    assert [(jobs.job(id_).state, jobs.job(id_).tries) for id_ in ids] == [("done", 1)] * 2


class Memory:
    """What an agent keeps over its streams: jobs that it holds, answers that were not taken yet."""

    def __init__(self, rng, result):
        self.rng, self.result = rng, result
        self.held, self.undelivered, self.answers = [], [], {}

    def serve(self, board, messages, is_over):
        """Work through so many messages of a stream."""
        board.expect("welcome")
        for lease in self.undelivered:
            board.answer(lease, self.answers[lease])
        board.beat(*self.held)
        for _ in range(messages):
            message = board.hear()
            match message.WhichOneof("message"):
                case "job":
                    self.held.append(message.job.lease)
                case "drop":
                    self.held = [lease for lease in self.held if lease not in message.drop.leases]
                case "taken" if message.taken.lease in self.undelivered:
                    self.undelivered.remove(message.taken.lease)
            if self.held and self.rng.random() < 0.7:
                self.answer(board, self.held.pop(0))
            board.beat(*self.held, *self.undelivered)
            if is_over():
                return

    def answer(self, board, lease):
        self.undelivered.append(lease)
        self.answers[lease] = {**self.result, "probe_best_ms": float(len(self.answers))}
        board.answer(lease, self.answers[lease])

    def lose(self):
        """The agent goes down, too."""
        self.held, self.undelivered = [], []


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_no_job_is_lost_or_stuck_however_often_the_server_is_killed(url, jobs, agent, measured):
    rng = random.Random(1)
    ids = jobs.put(count=60, max_tries=1000)
    memory, kills = Memory(rng, measured), 0

    def all_done():
        return all(jobs.job(id_).state == "done" for id_ in ids)

    while not all_done():
        with process(url, 1) as (served, address):
            if rng.random() < 0.3:
                memory.lose()
            with suppress(grpc.RpcError):  # who waits too long without a word is sent away
                memory.serve(agent(address), rng.randrange(1, 40), all_done)
            served.kill()
            kills += 1
    assert kills > 3
    for job in map(jobs.job, ids):
        assert job.result == memory.answers[job.lease]
