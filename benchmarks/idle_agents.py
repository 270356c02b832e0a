"""What idle agents cost a server: its CPU time and memory, and how soon a job reaches one of them."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
from common import report
from grpc import aio

from milliseek.db.artefacts import save_artefact
from milliseek.db.engine import Database
from milliseek.db.jobs import NewJob, submit_jobs
from milliseek.rpc.v1 import device_pb2, device_pb2_grpc

SERVE = """
import sys
from milliseek.db.engine import Database
from milliseek.predictors.service import LatencyService
from milliseek.rpc.server import serve

database = Database.open(sys.argv[1])
with LatencyService(database) as service:
    serve(service, "127.0.0.1:0", database=database, on_ready=lambda address: print(address, flush=True))
"""
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own, as each agent has


class IdleAgent:
    """Registers, says hello, and sends heartbeats; answers the jobs that come."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self.arrived: asyncio.Queue[float] = asyncio.Queue()
        self._channel = aio.insecure_channel(address, options=_OPTIONS)
        self._stub = device_pb2_grpc.DeviceServiceStub(self._channel)
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        facts = device_pb2.DeviceFacts(cpu_model="idle", runtimes={"onnxruntime": "1"})
        await self._stub.RegisterDevice(device_pb2.RegisterDeviceRequest(name=self.name, model="idle", facts=facts))
        stream = self._stub.Work()
        await stream.write(device_pb2.WorkRequest(hello={"device": self.name, "capacity": 1}))
        welcome = (await stream.read()).welcome
        self._tasks = [
            asyncio.create_task(self._beat(stream, welcome.heartbeat_s)),
            asyncio.create_task(self._read(stream)),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._channel.close()

    async def _beat(self, stream: aio.StreamStreamCall, every_s: float) -> None:
        while True:
            await stream.write(device_pb2.WorkRequest(heartbeat={}))
            await asyncio.sleep(every_s)

    async def _read(self, stream: aio.StreamStreamCall) -> None:
        while (response := await stream.read()) is not aio.EOF:
            if response.HasField("job"):
                self.arrived.put_nowait(time.perf_counter())
                outcome = {"lease": response.job.lease, "failure": "This agent measures nothing."}
                await stream.write(device_pb2.WorkRequest(outcome=outcome))


def submit(database: Database, device: str) -> None:
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, b"model", "payload", durable=False)
        target = f"{device}/onnxruntime/fp32"
        submit_jobs(session, [NewJob(uuid.uuid4().hex, target, device, "measure", {"visits": 1}, sha256, 5)])


def cpu_s(before: Any, after: Any) -> float:
    return after.user + after.system - before.user - before.system


async def measure(address: str, server: psutil.Process, url: str, options: argparse.Namespace) -> dict[str, object]:
    before_bytes, before = server.memory_info().rss, server.cpu_times()
    agents = [IdleAgent(address, f"idle-{i}") for i in range(options.agents)]
    started = time.perf_counter()
    for start in range(0, len(agents), 50):
        await asyncio.gather(*(agent.connect() for agent in agents[start : start + 50]))
    connected_s = time.perf_counter() - started
    await asyncio.sleep(5)
    connected, started = server.cpu_times(), time.perf_counter()
    await asyncio.sleep(options.seconds)
    watched, seconds = server.cpu_times(), time.perf_counter() - started
    after_bytes = server.memory_info().rss
    database = await asyncio.to_thread(Database.open, url)
    waits_ms = []
    for agent in agents[:: max(1, len(agents) // options.jobs)]:
        started = time.perf_counter()
        await asyncio.to_thread(submit, database, agent.name)
        waits_ms.append(1000 * (await asyncio.wait_for(agent.arrived.get(), 60) - started))
    database.close()
    await asyncio.gather(*(agent.close() for agent in agents))
    return {
        "agents": len(agents),
        "connected_s": connected_s,
        "connecting_cpu_s": cpu_s(before, connected),
        "idle_cpu_share": cpu_s(connected, watched) / seconds,
        "bytes_per_agent": (after_bytes - before_bytes) / len(agents),
        "submitted_to_arrived_ms": {"median": statistics.median(waits_ms), "worst": max(waits_ms)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the server is watched")
    parser.add_argument("--jobs", type=int, default=20, help="jobs submitted by another process, one after the other")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'milliseek.db'}"
        with subprocess.Popen([sys.executable, "-c", SERVE, url], stdout=subprocess.PIPE, text=True) as served:
            try:
                assert served.stdout is not None
                address = served.stdout.readline().strip()
                figures = asyncio.run(measure(address, psutil.Process(served.pid), url, options))
            finally:
                served.terminate()
    report("idle_agents", figures)


if __name__ == "__main__":
    main()
