"""Damaged ONNX files, TFLite files and requests against a real service: what crashes, hangs or takes memory?

A file goes the whole way: upload, then prediction on a profiled target. Whatever it is, the service must refuse it in
words or predict it. A request goes as raw bytes to every method; the service must answer, not with a fault of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx
import psutil
from common import report
from google.protobuf import message_factory
from google.protobuf.message import Message
from mutations import other_bytes, other_field
from onnx import numpy_helper

from milliseek import config
from milliseek.db.engine import Database
from milliseek.db.predictors import list_predictors
from milliseek.errors import InvalidInput, MilliseekError
from milliseek.kernels.prior import prior_networks
from milliseek.predictors.networks.files import ModelForm, sample_networks
from milliseek.predictors.service import LatencyService
from milliseek.predictors.targets import device_target
from milliseek.rpc.server import InProcessServer
from milliseek.rpc.v1 import device_pb2, latency_pb2, measure_pb2
from milliseek.spaces.hyperspace import HYPERSPACES

Mutation = Callable[[bytes, np.random.Generator], bytes]
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)
UNPARSED = "Exception deserializing request!"
"""What gRPC itself answers to bytes that are no such message."""
DEADLINE_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="of ONNX files, of TFLite files, and of requests")
    parser.add_argument("--onnx-target", default="local/onnxruntime/fp32", help="a profiled target")
    parser.add_argument("--tflite-target", default="local/litert/fp32", help="a profiled target")
    parser.add_argument("--only", choices=("onnx", "tflite", "requests"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--db")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    database = Database.open(config.database_url(options.db))
    figures: dict[str, object] = {"count": options.count}
    with tempfile.TemporaryDirectory(prefix="milliseek-fuzz-") as folder:
        # What is uploaded goes into a copy: ten thousand damaged files are nothing to keep.
        copy = Path(folder, "milliseek.db")
        database.backup(copy)
        scratch = Database.open(f"sqlite:///{copy}")
        copy_predictors(database, scratch)
        with LatencyService(scratch) as service, watched() as memory:
            if options.only in (None, "onnx"):
                target = device_target(scratch, options.onnx_target).name
                figures["onnx"] = files(service, target, onnx_seeds(), options.count, rng, memory)
            if options.only in (None, "tflite"):
                target = device_target(scratch, options.tflite_target).name
                figures["tflite"] = files(service, target, tflite_seeds(), options.count, rng, memory)
            if options.only in (None, "requests"):
                with InProcessServer(service, database=scratch) as server:
                    figures["requests"] = requests(server.address, options.count, rng, memory)
        scratch.close()
    database.close()
    report("fuzz", figures)


def copy_predictors(source: Database, to: Database) -> None:
    """The predictors, which are small; uploads stay where they are."""
    with source.session(read_only=True) as session:
        wanted = {row.artefact_sha256 for row in list_predictors(session)}
    for sha256 in wanted:
        to.artefacts.put(source.artefacts.read(sha256), "predictor", durable=False)


class Memory:
    """The most that this process and its children had, in bytes, since it was last asked."""

    def __init__(self) -> None:
        self._most = 0
        self._process = psutil.Process()

    def sample(self) -> None:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self._most = max(self._most, total)

    def take(self) -> int:
        self.sample()
        most, self._most = self._most, 0
        return most


@contextmanager
def watched() -> Iterator[Memory]:
    memory, over = Memory(), threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            memory.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield memory
    over.set()
    thread.join()


def onnx_seeds() -> list[tuple[bytes, Mutation]]:
    """Small networks and published ones, without most of their weights, so that what is hit is structure."""
    rng = np.random.default_rng(1)
    drawn = [model.data for _, model in sample_networks([HYPERSPACES["tiny32"]], 2, ModelForm("onnx", "fp32", 8), rng)]
    drawn += [model.data for _, model in sample_networks([HYPERSPACES["tiny32"]], 1, ModelForm("onnx", "int8", 8), rng)]
    published = prior_networks("onnx", "fp32")
    drawn += [published[i].model() for i in rng.choice(len(published), 6, replace=False)]
    seeds = [_without_weights(data) for data in drawn] + drawn[:1]
    return [(seed, mutation) for seed in seeds for mutation in (other_bytes, other_field(onnx.ModelProto))]


def _without_weights(data: bytes) -> bytes:
    model = onnx.ModelProto.FromString(data)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 4096:
            tensor.CopyFrom(numpy_helper.from_array(np.ones((1,) * len(tensor.dims), np.float32), tensor.name))
    return model.SerializeToString()


def tflite_seeds() -> list[tuple[bytes, Mutation]]:
    """The smallest files there are: most of their bytes are structure."""
    rng = np.random.default_rng(2)
    space = [HYPERSPACES["tiny32"]]
    drawn = [model.data for _, model in sample_networks(space, 3, ModelForm("tflite", "fp32", 8), rng)]
    drawn += [model.data for _, model in sample_networks(space, 2, ModelForm("tflite", "int8", 8), rng)]
    published = sorted(prior_networks("tflite", "fp32"), key=lambda network: len(network.skeleton))
    drawn += [network.skeleton for network in published[:4]]
    return [(data, _near_the_structure if len(data) > 1 << 18 else other_bytes) for data in drawn]


def _near_the_structure(data: bytes, rng: np.random.Generator) -> bytes:
    """Weights lie together, away from the tables: change the first or the last 64 KiB."""
    if rng.integers(2):
        return other_bytes(data[: 1 << 16], rng) + data[1 << 16 :]
    return data[: -1 << 16] + other_bytes(data[-1 << 16 :], rng)


def files(
    service: LatencyService,
    target: str,
    seeds: list[tuple[bytes, Mutation]],
    count: int,
    rng: np.random.Generator,
    memory: Memory,
) -> dict[str, object]:
    """Outcomes, how long the slowest took, and the most memory."""
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    slowest_s, before = 0.0, memory.take()
    for i in range(count):
        seed, mutation = seeds[i % len(seeds)]
        data = mutation(seed, rng)
        started = time.monotonic()
        try:
            service.predict_model(service.store_model(data, "mutated"), target)
            outcomes["predicted"] += 1
        except InvalidInput as refusal:
            ended = "process ended" in refusal.message
            outcomes["child crashed" if ended else "too slow" if "longer than" in refusal.message else "refused"] += 1
            if ended:
                faults[refusal.message[:200]] += 1
        except MilliseekError as refusal:
            outcomes["refused by the runtime"] += 1
            if "ended with" in refusal.message:
                faults[refusal.message[:200]] += 1
        except Exception as error:  # noqa: BLE001 - what this looks for
            outcomes["fault"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            faults[f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {error}"[:300]] += 1
        slowest_s = max(slowest_s, time.monotonic() - started)
    return {
        "outcomes": dict(outcomes),
        "faults": dict(faults),
        "slowest_s": slowest_s,
        "memory_bytes": {"before": before, "most": memory.take()},
    }


def request_seeds() -> list[tuple[str, bool, bool, Message]]:
    """(path, requests are a stream, answers are a stream, a request) of every method."""
    found = []
    for module in (latency_pb2, device_pb2, measure_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                request = message_factory.GetMessageClass(method.input_type)()
                _fill(request)
                path = f"/{service.full_name}/{method.name}"
                found.append((path, method.client_streaming, method.server_streaming, request))
    return found


def _fill(message: Message, depth: int = 0) -> None:
    """Something in every field, so that there is something to change."""
    values = {"sha256": "0" * 64, "target": "local/onnxruntime/fp32", "space": "tiny32-0100-1322", "name": "net.onnx"}
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry or depth > 4 or field.containing_oneof:
                continue
            value = getattr(message, field.name)
            _fill(value.add() if field.is_repeated else value, depth + 1)
            continue
        one: object = {
            field.CPPTYPE_STRING: values.get(field.name, "1"),
            field.CPPTYPE_BOOL: True,
            field.CPPTYPE_DOUBLE: 1.0,
            field.CPPTYPE_FLOAT: 1.0,
        }.get(field.cpp_type, 1)
        if field.type == field.TYPE_BYTES:
            one = b"bytes"
        if field.is_repeated:
            getattr(message, field.name).extend([one] * 3)
        else:
            setattr(message, field.name, one)
    for oneof in message.DESCRIPTOR.oneofs:
        inner = oneof.fields[0]
        if inner.message_type is not None:
            value = getattr(message, inner.name)
            value.SetInParent()
            _fill(value, depth + 1)


def requests(address: str, count: int, rng: np.random.Generator, memory: Memory) -> dict[str, object]:
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    slowest_s, before = 0.0, memory.take()
    seeds = request_seeds()
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        for i in range(count):
            path, takes_stream, gives_stream, seed = seeds[i % len(seeds)]
            mutation = (other_bytes, other_field(type(seed)))[i // len(seeds) % 2]
            data = [mutation(seed.SerializeToString(), rng) for _ in range(1 + int(rng.integers(3)) * takes_stream)]
            started = time.monotonic()
            try:
                _call(channel, path, takes_stream, gives_stream, data)
                outcomes["OK"] += 1
            except grpc.RpcError as error:
                code = error.code()
                if error.details() == UNPARSED:
                    outcomes["no such message"] += 1
                elif code is grpc.StatusCode.CANCELLED:
                    outcomes["a stream that waits, cancelled"] += 1
                else:
                    outcomes[code.name] += 1
                    if code in FAULTS:
                        faults[f"{path}: {code.name} {error.details()}"[:200]] += 1
            slowest_s = max(slowest_s, time.monotonic() - started)
    return {
        "methods": len(seeds),
        "outcomes": dict(outcomes),
        "faults": dict(faults),
        "slowest_s": slowest_s,
        "memory_bytes": {"before": before, "most": memory.take()},
    }


def _call(channel: grpc.Channel, path: str, takes_stream: bool, gives_stream: bool, data: list[bytes]) -> None:
    kind = ("stream" if takes_stream else "unary") + "_" + ("stream" if gives_stream else "unary")
    call = getattr(channel, kind)(path, request_serializer=None, response_deserializer=None)
    answer = call(iter(data) if takes_stream else data[0], timeout=DEADLINE_S)
    if not gives_stream:
        return
    # Watching and working are streams without an end: a few answers are enough.
    timer = threading.Timer(0.3, answer.cancel)
    timer.start()
    try:
        for number, _ in enumerate(answer):
            if number == 3:
                break
    finally:
        timer.cancel()
        answer.cancel()


if __name__ == "__main__":
    main()
