"""Between the messages of `milliseek.rpc.v1` and the dataclasses of `milliseek.results`: pure, mostly in pairs.

Numbers survive both ways exactly; what a message cannot hold raises `ValueError` or `OverflowError` here, at
its origin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import numpy as np
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from ..results import (
    Device,
    DeviceState,
    Job,
    JobState,
    KernelLatencies,
    KernelLatency,
    LatencyTable,
    Prediction,
    SubnetLatencies,
    TargetInfo,
    Visit,
)
from .v1 import device_pb2, latency_pb2, measure_pb2

ROWS_PER_PART = 50_000
_PART_BYTES = 3_000_000
_VARINT_BYTES = 5
_DOUBLE_BYTES = 8


def prediction_to_proto(prediction: Prediction) -> latency_pb2.Prediction:
    """The message of a prediction."""
    low_ms, high_ms = prediction.interval_ms
    return latency_pb2.Prediction(
        target=prediction.target,
        predictor=prediction.predictor,
        latency_ms=prediction.latency_ms,
        interval_low_ms=low_ms,
        interval_high_ms=high_ms,
        uncovered=prediction.uncovered,
        kernels=map(_kernel_to_proto, prediction.kernels),
        notes=prediction.notes,
    )


def prediction_from_proto(message: latency_pb2.Prediction) -> Prediction:
    """The prediction in a message."""
    return Prediction(
        target=message.target,
        predictor=message.predictor,
        latency_ms=message.latency_ms,
        interval_ms=(message.interval_low_ms, message.interval_high_ms),
        uncovered=message.uncovered,
        kernels=tuple(map(_kernel_from_proto, message.kernels)),
        notes=tuple(message.notes),
    )


def kernel_latencies_to_proto(latencies: KernelLatencies) -> latency_pb2.PredictKernelsResponse:
    """The message of the latencies of single kernels, which leaves out their specs: who asked has them."""
    return latency_pb2.PredictKernelsResponse(
        kernels=(_kernel_to_proto(replace(kernel, spec="")) for kernel in latencies.kernels),
        predictor=latencies.predictor,
    )


def kernel_latencies_from_proto(message: latency_pb2.PredictKernelsResponse, specs: Iterable[str]) -> KernelLatencies:
    """The latencies in the answer for `specs`; raises `ValueError` unless there are as many."""
    kernels = zip(map(_kernel_from_proto, message.kernels), specs, strict=True)
    return KernelLatencies(tuple(replace(kernel, spec=spec) for kernel, spec in kernels), message.predictor)


def subnets_to_proto(space: str, target: str, genes: np.ndarray) -> latency_pb2.PredictSubnetsRequest:
    """The message that asks for subnets; `genes`: integer array (subnets, genes a subnet)."""
    return latency_pb2.PredictSubnetsRequest(
        space=space, target=target, genes_per_subnet=genes.shape[1], genes=genes.ravel().tolist()
    )


def genes_from_proto(message: latency_pb2.PredictSubnetsRequest) -> np.ndarray:
    """The int32 array (subnets, genes a subnet) of a request whose length has been checked."""
    flat = np.fromiter(message.genes, dtype=np.int32, count=len(message.genes))
    return flat.reshape(-1, message.genes_per_subnet)


def subnet_latencies_to_proto(latencies: SubnetLatencies) -> latency_pb2.PredictSubnetsResponse:
    """The message of the latencies of many subnets."""
    return latency_pb2.PredictSubnetsResponse(
        latency_ms=latencies.latency_ms.tolist(),
        interval=_interval_to_proto(latencies.interval),
        predictor=latencies.predictor,
    )


def subnet_latencies_from_proto(message: latency_pb2.PredictSubnetsResponse) -> SubnetLatencies:
    """The latencies in a message."""
    return SubnetLatencies(
        latency_ms=np.fromiter(message.latency_ms, dtype=np.float64, count=len(message.latency_ms)),
        interval=_interval_from_proto(message.interval),
        predictor=message.predictor,
    )


def table_to_parts(
    table: LatencyTable, rows_per_part: int = ROWS_PER_PART
) -> Iterator[latency_pb2.GetLatencyTableResponse]:
    """The messages of a table, each below gRPC's 4 MiB, the first with the header; at least one."""
    rows, columns = table.keys.shape
    header = latency_pb2.LatencyTableHeader(
        space=table.space,
        target=table.target,
        predictor=table.predictor,
        rows=rows,
        columns=columns,
        constant_ms=table.constant_ms,
        interval=_interval_to_proto(table.interval),
    )
    step = max(1, min(rows_per_part, _PART_BYTES // (_VARINT_BYTES * columns + _DOUBLE_BYTES)))
    for start in range(0, max(rows, 1), step):
        yield latency_pb2.GetLatencyTableResponse(
            header=header if start == 0 else None,
            keys=table.keys[start : start + step].ravel().tolist(),
            latency_ms=table.latency_ms[start : start + step].tolist(),
        )


def table_from_parts(parts: Iterable[latency_pb2.GetLatencyTableResponse]) -> LatencyTable:
    """The table in a sequence of messages; raises `ValueError` if they are not one whole table."""
    header: latency_pb2.LatencyTableHeader | None = None
    keys = [np.empty(0, np.int32)]
    latency_ms = [np.empty(0, np.float64)]
    for part in parts:
        if part.HasField("header") != (header is None):
            raise ValueError("a latency table has its header in the first part, and only there")
        header = header or part.header
        keys.append(np.fromiter(part.keys, dtype=np.int32, count=len(part.keys)))
        latency_ms.append(np.fromiter(part.latency_ms, dtype=np.float64, count=len(part.latency_ms)))
    if header is None:
        raise ValueError("a latency table without any part")
    flat_keys, all_ms = np.concatenate(keys), np.concatenate(latency_ms)
    if len(all_ms) != header.rows or len(flat_keys) != header.rows * header.columns:
        raise ValueError(
            f"a latency table of {header.rows} rows and {header.columns} columns arrived with "
            f"{len(all_ms)} latencies and {len(flat_keys)} integers"
        )
    return LatencyTable(
        space=header.space,
        target=header.target,
        predictor=header.predictor,
        keys=flat_keys.reshape(header.rows, header.columns),
        latency_ms=all_ms,
        constant_ms=header.constant_ms,
        interval=_interval_from_proto(header.interval),
    )


def target_info_to_proto(info: TargetInfo) -> latency_pb2.TargetInfo:
    """The message of a target; raises `ValueError` or `TypeError` if `held_out` is not JSON."""
    json.dumps(info.held_out, allow_nan=False)  # a Struct would carry a NaN, but nobody could read it
    message = latency_pb2.TargetInfo(name=info.name, predictor=info.predictor, runtime_version=info.runtime_version)
    message.held_out.update(info.held_out)
    return message


def target_info_from_proto(message: latency_pb2.TargetInfo) -> TargetInfo:
    """The target in a message; the numbers of `held_out` are floats."""
    return TargetInfo(
        name=message.name,
        predictor=message.predictor,
        runtime_version=message.runtime_version,
        held_out=json_format.MessageToDict(message.held_out),
    )


def device_from_proto(message: device_pb2.Device) -> Device:
    """The device in a message; the numbers of `facts` are floats. Raises `ValueError` for a state unknown here."""
    return Device(
        name=message.name,
        kind=message.kind,
        model=message.model,
        facts=json_format.MessageToDict(message.facts),
        state=cast("DeviceState", device_pb2.DeviceState.Name(message.state).removeprefix("DEVICE_STATE_").lower()),
        connected=message.connected,
        last_seen_at=_time(message.last_seen_at) if message.HasField("last_seen_at") else None,
    )


def job_from_proto(message: measure_pb2.Job) -> Job:
    """The job in a message; raises `ValueError` for a state unknown here."""
    return Job(
        id=message.id,
        key=message.idempotency_key,
        user=message.user,
        target=message.target,
        sha256=message.sha256,
        state=cast("JobState", measure_pb2.JobState.Name(message.state).removeprefix("JOB_STATE_").lower()),
        priority=message.priority,
        tries=message.tries,
        device=message.device,
        visits=tuple(
            Visit(
                visit.latency_ms,
                visit.spread_ms,
                visit.runs,
                visit.probe_before_ms,
                visit.probe_after_ms,
                visit.probe_best_ms,
                visit.disturbed,
            )
            for visit in message.visits
        ),
        failure=message.failure,
        created_at=_time(message.created_at),
        ended_at=_time(message.ended_at) if message.HasField("ended_at") else None,
    )


def _kernel_to_proto(kernel: KernelLatency) -> latency_pb2.KernelLatency:
    return latency_pb2.KernelLatency(
        kind=kernel.kind,
        config=kernel.config,
        latency_ms=kernel.latency_ms,
        count=kernel.count,
        covered=kernel.covered,
        spec=kernel.spec,
    )


def _kernel_from_proto(message: latency_pb2.KernelLatency) -> KernelLatency:
    return KernelLatency(message.kind, message.config, message.latency_ms, message.count, message.covered, message.spec)


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)


def _interval_to_proto(interval: tuple[float, float]) -> latency_pb2.RelativeInterval:
    below, above = interval
    return latency_pb2.RelativeInterval(below=below, above=above)


def _interval_from_proto(message: latency_pb2.RelativeInterval) -> tuple[float, float]:
    return message.below, message.above
