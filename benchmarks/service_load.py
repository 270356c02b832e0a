"""What one service answers under load, in a process of its own: calls and subnets a second beside a bare echo server.

Tokens are on, the log is written to a file and the metrics are served, as in use. Everybody shares the cores with the
client, which is Python as well; so a gRPC server that only sends back fixed bytes is measured in turn, round by round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from common import report
from grpc import aio
from prediction_speed import network

from milliseek.rpc.convert import subnets_to_proto
from milliseek.rpc.v1 import latency_pb2, latency_pb2_grpc
from milliseek.spaces.codes import encode_genes
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import Space, random_subnet

SPACE = "tiny32-1515-1111"
BATCH = 10_000
CHUNK_BYTES = 1024 * 1024
Metadata = tuple[tuple[str, str], ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="local/onnxruntime/int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each part of a round")
    parser.add_argument("--concurrency", type=int, default=16, help="calls under way at a time")
    parser.add_argument("--minutes", type=float, default=0.0, help="of further load, in which memory is watched")
    parser.add_argument("--home", help="MILLISEEK_HOME with a predictor of the target; default: one is made in 30 s")
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo is not None:
        asyncio.run(_echo(options.echo))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(options.home or folder)
        if not options.home:
            _milliseek(home, "profile", options.target, "--space", SPACE, "--budget", "30s", "--json")
        made = _milliseek(home, "tokens", "create", f"load-{os.getpid()}", "--scope", "search", "--json")
        metadata = (("authorization", f"Bearer {json.loads(made)['secret']}"),)
        serve = ["-P", "-m", "milliseek", "serve", "--address", "127.0.0.1:0", "--tokens", "--metrics", "0"]
        with Path(folder, "log").open("w") as log, _server(home, log, *serve, "--log-format", "json") as service:
            figures = asyncio.run(_load(options, service, metadata))
    report("service_load", figures)


async def _load(options: argparse.Namespace, service: Server, metadata: Metadata) -> dict[str, Any]:
    async with aio.insecure_channel(service.address) as channel:
        stub = latency_pb2_grpc.LatencyServiceStub(channel)  # type: ignore[no-untyped-call]
        made = network()
        model = network_model(made, random_parameters(made.layers), "int8")
        sha256 = (await stub.UploadModel(_upload(model), metadata=metadata)).sha256
        request = latency_pb2.PredictModelRequest(sha256=sha256, target=options.target)
        response = await stub.PredictModel(request, metadata=metadata)
        batch = _batch(options.target)
        await stub.PredictSubnets(batch, metadata=metadata, timeout=600)

        predict_model = channel.unary_unary("/milliseek.rpc.v1.LatencyService/PredictModel")
        asked, answered = request.SerializeToString(), response.SerializeToString()

        async def predict() -> None:
            assert await predict_model(asked, metadata=metadata, timeout=60) == answered

        echo_command = (__file__, "--echo", str(response.ByteSize()))
        with _server(Path(), subprocess.DEVNULL, *echo_command) as echo:
            async with aio.insecure_channel(echo.address) as echo_channel:
                call = echo_channel.unary_unary("/echo.Echo/Echo")
                parts: dict[str, tuple[Server, Callable[[], Awaitable[Any]]]] = {
                    "echo": (echo, lambda: call(asked, metadata=metadata, timeout=60)),
                    "predict_model": (service, predict),
                }
                rounds: list[dict[str, Any]] = []
                for _ in range(options.rounds):
                    found = {
                        name: await _unary(server, work, options.concurrency, options.seconds)
                        for name, (server, work) in parts.items()
                    }
                    found["subnets"] = await _stream(service, stub, batch, metadata, options.seconds)
                    rounds.append(found)
        soak = await _soak(options, service, stub, predict, batch, metadata) if options.minutes else {}
    return {
        "response_bytes": response.ByteSize(),
        "concurrency": options.concurrency,
        "rounds": len(rounds),
        **{
            name: {figure: statistics.median(found[name][figure] for found in rounds) for figure in rounds[0][name]}
            for name in rounds[0]
        },
        "calls_by_echo": statistics.median(r["predict_model"]["per_second"] / r["echo"]["per_second"] for r in rounds),
        **soak,
    }


async def _unary(
    server: Server, call: Callable[[], Awaitable[Any]], concurrency: int, seconds: float
) -> dict[str, float]:
    """Calls from so many callers, each of which waits for its answer before it asks again."""
    latencies_ms: list[float] = []
    cpu_s, began = server.cpu_s(), time.perf_counter()

    async def ask() -> None:
        while (asked := time.perf_counter()) < began + seconds:
            await call()
            latencies_ms.append(1000 * (time.perf_counter() - asked))

    await asyncio.gather(*(ask() for _ in range(concurrency)))
    took_s, calls = time.perf_counter() - began, len(latencies_ms)
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return {
        "per_second": calls / took_s,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "server_cpu_us_per_call": 1e6 * (server.cpu_s() - cpu_s) / calls,
    }


async def _stream(
    server: Server,
    stub: latency_pb2_grpc.LatencyServiceStub,
    batch: latency_pb2.PredictSubnetsRequest,
    metadata: Metadata,
    seconds: float,
) -> dict[str, float]:
    """Batches through one stream; the client sends the next ones while the server is at it."""
    cpu_s, began, count = server.cpu_s(), time.perf_counter(), 0

    async def batches() -> AsyncIterator[latency_pb2.StreamPredictSubnetsRequest]:
        while time.perf_counter() < began + seconds:
            yield latency_pb2.StreamPredictSubnetsRequest(batch=batch)

    async for response in stub.StreamPredictSubnets(batches(), metadata=metadata):
        count += len(response.batch.latency_ms)
    return {
        "per_second": count / (time.perf_counter() - began),
        "server_cpu_us_per_batch": 1e6 * (server.cpu_s() - cpu_s) / (count / BATCH),
    }


async def _soak(
    options: argparse.Namespace,
    server: Server,
    stub: latency_pb2_grpc.LatencyServiceStub,
    predict: Callable[[], Awaitable[None]],
    batch: latency_pb2.PredictSubnetsRequest,
    metadata: Metadata,
) -> dict[str, Any]:
    """Both kinds of load in turn; what the server's memory does meanwhile."""
    began, minutes, rss_mb, calls = time.monotonic(), [], [], 0.0
    while (passed := (time.monotonic() - began) / 60) < options.minutes:
        calls += options.seconds * (await _unary(server, predict, options.concurrency, options.seconds))["per_second"]
        await _stream(server, stub, batch, metadata, options.seconds)
        minutes.append(passed)
        rss_mb.append(server.process.memory_info().rss / 1e6)
    half = len(rss_mb) // 2
    slope = float(np.polyfit(minutes[half:], rss_mb[half:], 1)[0]) if len(rss_mb) - half > 2 else None
    return {
        "memory": {
            "minutes": options.minutes,
            "calls": round(calls),
            "first_mb": rss_mb[0],
            "last_mb": rss_mb[-1],
            "highest_mb": max(rss_mb),
            "mb_per_minute_in_second_half": slope,
        }
    }


class Server:
    """A server in a process of its own."""

    def __init__(self, address: str, pid: int) -> None:
        self.address = address
        self.process = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Seconds that it has computed."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextmanager
def _server(home: Path, log: Any, *arguments: str) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, *arguments], env=_environment(home), stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "metrics" not in line)
            yield Server(line.split()[-1], process.pid)
        finally:
            process.terminate()


def _milliseek(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "milliseek", *arguments]
    return subprocess.run(command, env=_environment(home), check=True, stdout=subprocess.PIPE, text=True).stdout


def _environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MILLISEEK_")}
    return {**kept, "MILLISEEK_HOME": str(home)}


async def _upload(model: bytes) -> AsyncIterator[latency_pb2.UploadModelRequest]:
    header = latency_pb2.UploadModelHeader(name="load.onnx", size_bytes=len(model))
    yield latency_pb2.UploadModelRequest(header=header)
    for start in range(0, len(model), CHUNK_BYTES):
        yield latency_pb2.UploadModelRequest(chunk=model[start : start + CHUNK_BYTES])


def _batch(target: str) -> latency_pb2.PredictSubnetsRequest:
    space, rng = Space.decode(SPACE), np.random.default_rng(0)
    genes = encode_genes([random_subnet(space, rng) for _ in range(1000)])
    return subnets_to_proto(SPACE, target, np.tile(genes, (BATCH // len(genes), 1)))


async def _echo(size_bytes: int) -> None:
    answer = bytes(size_bytes)

    async def echo(_request: bytes, _context: Any) -> bytes:
        return answer

    server = aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Echo": handler}),))
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    main()
