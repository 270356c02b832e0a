"""What a client asks the LatencyService, as steps; see `Client` for what each is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ..errors import Busy, InvalidInput
from ..results import KernelLatencies, LatencyTable, Prediction, SubnetLatencies, TargetInfo
from ..rpc import convert
from ..rpc.v1 import latency_pb2
from .steps import BrokenAnswer, Call, Steps
from .upload import Model, sha256_of

GENES_PER_BATCH = 250_000
SUBNETS_PER_BATCH = 50_000
KERNELS_PER_BATCH = 10_000
KERNEL_BYTES_PER_BATCH = 3_000_000

_Answer = TypeVar("_Answer", KernelLatencies, SubnetLatencies)


def predict(model: Model, target: str) -> Steps[Prediction]:
    """One model on a target."""
    request = latency_pb2.PredictModelRequest(sha256=(yield from sha256_of(model)), target=target)
    response: latency_pb2.PredictModelResponse = yield Call("PredictModel", request)
    return convert.prediction_from_proto(response.prediction)


def predict_many(models: Iterable[Model], target: str) -> Steps[list[Prediction]]:
    """Models on a target, as a stream."""
    requests: list[latency_pb2.StreamPredictModelsRequest] = []
    for model in models:
        request = latency_pb2.PredictModelRequest(sha256=(yield from sha256_of(model)), target=target)
        requests.append(latency_pb2.StreamPredictModelsRequest(request=request))
    if not requests:
        return []
    answers: list[latency_pb2.StreamPredictModelsResponse] = yield Call(
        "StreamPredictModels", iter(requests), streamed=True, batches=len(requests)
    )
    if len(answers) != len(requests):
        raise BrokenAnswer(f"{len(answers)} predictions for {len(requests)} models")
    return [convert.prediction_from_proto(answer.response.prediction) for answer in answers]


def predict_kernels(specs: Iterable[str], target: str) -> Steps[KernelLatencies]:
    """Kernels on a target, given by their specs."""
    answers: list[KernelLatencies] = []
    for batch in _batches(specs):
        request = latency_pb2.PredictKernelsRequest(target=target, kernels=batch)
        response: latency_pb2.PredictKernelsResponse = yield Call("PredictKernels", request)
        try:
            answers.append(convert.kernel_latencies_from_proto(response, batch))
        except ValueError as error:
            raise BrokenAnswer(f"{len(response.kernels)} latencies for {len(batch)} kernels") from error
    first = _of_one_predictor(answers, target)
    return KernelLatencies(tuple(kernel for answer in answers for kernel in answer.kernels), first.predictor)


def predict_subnets(space: str, target: str, genes: np.ndarray) -> Steps[SubnetLatencies]:
    """Subnets of a space on a target; big arrays as a stream."""
    genes = _checked_genes(genes)
    step = max(1, min(SUBNETS_PER_BATCH, GENES_PER_BATCH // genes.shape[1]))
    if len(genes) <= step:
        return convert.subnet_latencies_from_proto(
            (yield Call("PredictSubnets", convert.subnets_to_proto(space, target, genes)))
        )
    starts = range(0, len(genes), step)
    requests = (
        latency_pb2.StreamPredictSubnetsRequest(
            batch=convert.subnets_to_proto(space, target, genes[start : start + step])
        )
        for start in starts
    )
    responses = yield Call("StreamPredictSubnets", requests, streamed=True, batches=len(starts))
    answers = [convert.subnet_latencies_from_proto(response.batch) for response in responses]
    latency_ms = np.concatenate([np.empty(0), *(answer.latency_ms for answer in answers)])
    if len(latency_ms) != len(genes):
        raise BrokenAnswer(f"{len(latency_ms)} latencies for {len(genes)} subnets")
    first = _of_one_predictor(answers, target)
    return SubnetLatencies(latency_ms, first.interval, first.predictor)


def latency_table(space: str, target: str) -> Steps[LatencyTable]:
    """A space compiled for a target."""
    request = latency_pb2.GetLatencyTableRequest(space=space, target=target)
    parts = yield Call("GetLatencyTable", request, streamed=True)
    try:
        return convert.table_from_parts(parts)
    except ValueError as error:
        raise BrokenAnswer(str(error)) from error


def targets() -> Steps[list[TargetInfo]]:
    """The targets with a predictor."""
    response: latency_pb2.ListTargetsResponse = yield Call("ListTargets", latency_pb2.ListTargetsRequest())
    return [convert.target_info_from_proto(info) for info in response.targets]


def wait_ready(timeout_s: float) -> Steps[None]:
    """Nothing but an answer."""
    yield Call("ListTargets", latency_pb2.ListTargetsRequest(), timeout_s=timeout_s, wait_for_ready=True)


def _of_one_predictor(answers: Sequence[_Answer], target: str) -> _Answer:
    if len({answer.predictor for answer in answers}) > 1:
        raise Busy(f"The predictor of {target} was replaced while it was asked.", "Ask again.")
    return answers[0]


def _batches(specs: Iterable[str]) -> Iterator[list[str]]:
    """At least one batch, none over what the service takes; specs are ASCII."""
    batch: list[str] = []
    size_bytes = 0
    for spec in specs:
        if batch and (len(batch) == KERNELS_PER_BATCH or size_bytes + len(spec) > KERNEL_BYTES_PER_BATCH):
            yield batch
            batch, size_bytes = [], 0
        batch.append(spec)
        size_bytes += len(spec)
    yield batch


def _checked_genes(genes: np.ndarray) -> np.ndarray:
    genes = np.asarray(genes)
    remedy = "Give an integer array of the shape (subnets, genes a subnet)."
    if genes.ndim != 2 or genes.shape[1] == 0 or genes.dtype.kind not in "iu":
        raise InvalidInput(f"An array of shape {genes.shape} and type {genes.dtype} holds no subnets.", remedy)
    limits = np.iinfo(np.int32)
    if genes.size and (genes.min() < limits.min or genes.max() > limits.max):
        raise InvalidInput("A gene lies outside the range of 32-bit integers.", remedy)
    return genes
