"""The Python client of the latency service."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import grpc
import numpy as np

from .errors import Busy, InvalidInput, MilliseekError, NotFound, ServiceError
from .results import LatencyTable, Prediction, SubnetLatencies, TargetInfo
from .rpc import convert
from .rpc.status import error_from_status
from .rpc.v1 import latency_pb2, latency_pb2_grpc

CHUNK_BYTES = 1024 * 1024
GENES_PER_BATCH = 250_000
SUBNETS_PER_BATCH = 50_000
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/\s\[\]]+):[0-9]{1,5}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a proxy cannot reach our loopback
    ("grpc.use_local_subchannel_pool", 1),  # an earlier server's back-off on the same port is not this one's
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a restarted server is found soon
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class LatencyClient:
    """Asks a latency service at `host:port`; close it, or use it as a context manager. Threads may share one.

    Every method raises what the service raises, as the same `MilliseekError` class with message and remedy,
    and `ServiceError` when the service cannot be reached, does not answer within `timeout_s` seconds (for
    arrays of subnets: seconds a batch), or fails. An address not written as `host:port` is an `InvalidInput`.
    """

    def __init__(self, address: str, timeout_s: float = 60.0) -> None:
        if not _ADDRESS.fullmatch(address):
            raise InvalidInput(
                f"{address!r} is not the address of a latency service.",
                "Write it as host:port, for example 127.0.0.1:50051.",
            )
        self.address = address
        self.timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = latency_pb2_grpc.LatencyServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; calls under way are cancelled. May be called twice."""
        self._channel.close()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Return once the service answers; raises `ServiceError` after `timeout_s` seconds."""
        with self._errors(timeout_s):
            self._stub.ListTargets(latency_pb2.ListTargetsRequest(), timeout=timeout_s, wait_for_ready=True)

    def upload(self, model: str | os.PathLike[str] | bytes, *, name: str = "", expected_sha256: str = "") -> str:
        """Upload a model file, given by its path or its bytes, and return its SHA-256, its name from now on.

        `name`: file name whose suffix tells the format, by default that of the path, `model.onnx` for bytes.
        Raises `NotFound` for a missing file, `InvalidInput` for one that cannot be read or is not a model, or
        whose SHA-256 is not the expected one.
        """
        with _opened(model) as (file, size_bytes):
            name = name or ("model.onnx" if isinstance(model, bytes) else Path(model).name)
            header = latency_pb2.UploadModelHeader(
                name=_printable(name), expected_sha256=expected_sha256, size_bytes=size_bytes
            )
            upload = _Upload(file, header)
            try:
                with self._errors(self.timeout_s):
                    response = self._stub.UploadModel(upload.requests(), timeout=self.timeout_s)
            except MilliseekError as error:
                if upload.failure:
                    raise _unreadable(name, upload.failure) from error
                raise
        if response.sha256 != upload.sha256.hexdigest():
            raise ServiceError(
                f"The latency service at {self.address} stored {name} under a SHA-256 that is not its own.",
                "Leave the file unchanged while it is uploaded, and upload it again.",
            )
        return response.sha256

    def predict(self, model: str | os.PathLike[str] | bytes, target: str) -> Prediction:
        """Predict a model on a target; `model` is a path, the bytes of a file, or the SHA-256 of an upload.

        A path or bytes are uploaded first. A file whose name looks like a SHA-256 is meant by `Path(name)`.
        """
        sha256 = model if isinstance(model, str) and _SHA256.fullmatch(model) else self.upload(model)
        request = latency_pb2.PredictModelRequest(sha256=sha256, target=target)
        with self._errors(self.timeout_s):
            response = self._stub.PredictModel(request, timeout=self.timeout_s)
        return convert.prediction_from_proto(response.prediction)

    def predict_subnets(self, space: str, target: str, genes: np.ndarray) -> SubnetLatencies:
        """Predict subnets of a space; `genes`: integer array (subnets, genes a subnet). Big arrays go as a
        stream.

        Raises `InvalidInput` for an array that is not of this kind, `Busy` if the predictor was replaced
        meanwhile.
        """
        genes = _checked_genes(genes)
        step = max(1, min(SUBNETS_PER_BATCH, GENES_PER_BATCH // genes.shape[1]))
        if len(genes) <= step:
            request = convert.subnets_to_proto(space, target, genes)
            with self._errors(self.timeout_s):
                return convert.subnet_latencies_from_proto(self._stub.PredictSubnets(request, timeout=self.timeout_s))
        starts = range(0, len(genes), step)
        requests = (
            latency_pb2.StreamPredictSubnetsRequest(
                batch=convert.subnets_to_proto(space, target, genes[start : start + step])
            )
            for start in starts
        )
        timeout_s = self.timeout_s * len(starts)
        with self._errors(timeout_s):
            answers = [
                convert.subnet_latencies_from_proto(response.batch)
                for response in self._stub.StreamPredictSubnets(requests, timeout=timeout_s)
            ]
        return self._joined(answers, len(genes), target)

    def latency_table(self, space: str, target: str) -> LatencyTable:
        """A space, or a whole hyperspace, compiled for a target."""
        request = latency_pb2.GetLatencyTableRequest(space=space, target=target)
        with self._errors(self.timeout_s):
            parts = self._stub.GetLatencyTable(request, timeout=self.timeout_s)
            try:
                return convert.table_from_parts(parts)
            except ValueError as error:
                raise self._broken_answer(str(error)) from error

    def targets(self) -> list[TargetInfo]:
        """The targets that have a predictor, ordered by name."""
        with self._errors(self.timeout_s):
            response = self._stub.ListTargets(latency_pb2.ListTargetsRequest(), timeout=self.timeout_s)
        return [convert.target_info_from_proto(info) for info in response.targets]

    def _joined(self, answers: list[SubnetLatencies], subnets: int, target: str) -> SubnetLatencies:
        latency_ms = np.concatenate([answer.latency_ms for answer in answers])
        if len(latency_ms) != subnets:
            raise self._broken_answer(f"{len(latency_ms)} latencies for {subnets} subnets")
        if len({(answer.predictor, answer.interval) for answer in answers}) > 1:
            raise Busy(f"The predictor of {target} was replaced while it was asked.", "Ask again.")
        return SubnetLatencies(latency_ms, answers[0].interval, answers[0].predictor)

    @contextmanager
    def _errors(self, timeout_s: float) -> Iterator[None]:
        """Raise what a failed call stands for."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(error, timeout_s) from error

    def _error(self, call: grpc.RpcError, timeout_s: float) -> MilliseekError:
        code, details = call.code(), call.details() or ""
        metadata = [(item.key, item.value) for item in call.trailing_metadata() or ()]
        if error := error_from_status(code, details, metadata):
            return error
        if code is grpc.StatusCode.UNAVAILABLE:
            return ServiceError(
                f"No latency service answers at {self.address} ({details}).",
                "Start one there with 'milliseek serve', or name another one.",
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServiceError(
                f"The latency service at {self.address} did not answer within {timeout_s:g} s.",
                "See whether 'milliseek serve' runs there and is busy, or allow more time.",
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ServiceError(
                f"The program at {self.address} is no latency service of this version ({details}).",
                "Start one with 'milliseek serve' of the same version of milliseek.",
            )
        return ServiceError(
            f"The latency service at {self.address} failed with {code.name}: {details}",
            "The log of 'milliseek serve' there says more.",
        )

    def _broken_answer(self, reason: str) -> ServiceError:
        return ServiceError(
            f"The latency service at {self.address} gave an answer that cannot be used: {reason}.",
            "Start 'milliseek serve' of the same version of milliseek there.",
        )


class _Upload:
    """The messages of one upload, and what became of the file while gRPC's thread read it."""

    def __init__(self, file: BinaryIO, header: latency_pb2.UploadModelHeader) -> None:
        self.sha256 = hashlib.sha256()
        self.failure: OSError | None = None
        self._file = file
        self._header = header

    def requests(self) -> Iterator[latency_pb2.UploadModelRequest]:
        yield latency_pb2.UploadModelRequest(header=self._header)
        while chunk := self._read():
            self.sha256.update(chunk)
            yield latency_pb2.UploadModelRequest(chunk=chunk)
        if self.failure:
            # Ends the call: the service must not take half a file for a whole one.
            raise self.failure

    def _read(self) -> bytes:
        try:
            return self._file.read(CHUNK_BYTES)
        except OSError as error:
            self.failure = error
        except ValueError:
            # The call has failed already, and its thread has closed the file: nobody reads these messages.
            return b""
        return b""


@contextmanager
def _opened(model: str | os.PathLike[str] | bytes) -> Iterator[tuple[BinaryIO, int]]:
    """The model as an open file, and its size in bytes."""
    if isinstance(model, bytes):
        yield io.BytesIO(model), len(model)
        return
    try:
        file = Path(model).open("rb")  # noqa: SIM115 - closed below, outside the try
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {os.fspath(model)!r}.", "Name an existing model file.") from error
    except (OSError, ValueError) as error:
        raise _unreadable(os.fspath(model), error) from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _unreadable(name: str, error: OSError | ValueError) -> InvalidInput:
    reason = getattr(error, "strerror", None) or error
    return InvalidInput(f"The file {name!r} cannot be read: {reason}.", "Name a model file that you may read.")


def _printable(name: str) -> str:
    """The name with anything that is not Unicode replaced: protobuf takes nothing else."""
    return name.encode(errors="replace").decode()


def _checked_genes(genes: np.ndarray) -> np.ndarray:
    genes = np.asarray(genes)
    remedy = "Give an integer array of the shape (subnets, genes a subnet)."
    if genes.ndim != 2 or genes.shape[1] == 0 or genes.dtype.kind not in "iu":
        raise InvalidInput(f"An array of shape {genes.shape} and type {genes.dtype} holds no subnets.", remedy)
    limits = np.iinfo(np.int32)
    if genes.size and (genes.min() < limits.min or genes.max() > limits.max):
        raise InvalidInput("A gene lies outside the range of 32-bit integers.", remedy)
    return genes
