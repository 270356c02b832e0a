"""What one request may ask for, and the checks that need no knowledge of models, spaces or targets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidInput
from .v1 import device_pb2, latency_pb2

MIB = 1024 * 1024
MAX_TEXT = 200
"""Characters of a target or the name of a space."""
MAX_FILE_NAME = 255

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]+")


class TooLarge(InvalidInput):
    """A request over one of the limits; a client sees an `InvalidInput`."""

    code = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class ServiceLimits:
    """Bounds on what one service accepts at a time.

    `upload_bytes`: size of one model file. `chunk_bytes`: size of one message of an upload. `subnets` and
    `genes`: of one request or one batch of a stream (they keep requests and answers below gRPC's 4 MiB).
    `kernels`: of one request, which gRPC's 4 MiB may bound further; `kernel_bytes`: of the text of one of them.
    `threads`: backend calls that run at the same time. `stores`: uploads that are handed to the backend,
    hence in memory, at the same time.
    """

    upload_bytes: int = 512 * MIB
    chunk_bytes: int = MIB
    subnets: int = 100_000
    genes: int = 700_000
    kernels: int = 10_000
    kernel_bytes: int = 16 * 1024
    threads: int = 8
    stores: int = 2


def check_sha256(value: str, what: str = "The model's SHA-256") -> str:
    """The value itself; raises `InvalidInput` unless it is 64 lower-case hexadecimal digits."""
    if not _SHA256.fullmatch(value):
        raise InvalidInput(
            f"{what} {_shown(value)} is not 64 lower-case hexadecimal digits.",
            "Use the name that the upload returned.",
        )
    return value


def check_target(value: str) -> str:
    """The value itself; raises `InvalidInput` if it is empty or too long to be a target."""
    return _check_text(value, "target", "Name one as device/runtime/precision, for example local/onnxruntime/int8.")


def check_space(value: str) -> str:
    """The value itself; raises `InvalidInput` if it is empty or too long to be the name of a space."""
    return _check_text(value, "space", "Name a hyperspace or a space, for example small32.")


def check_header(
    request: latency_pb2.UploadModelRequest | None, limits: ServiceLimits
) -> latency_pb2.UploadModelHeader:
    """The header of an upload from its first message; raises `InvalidInput` for anything else or a wrong one."""
    if request is None or request.WhichOneof("payload") != "header":
        raise InvalidInput(
            "The upload does not begin with a header.",
            "Send the file name in the first message, then the chunks.",
        )
    header = request.header
    if not _FILE_NAME.fullmatch(header.name) or len(header.name) > MAX_FILE_NAME or header.name in {".", ".."}:
        raise InvalidInput(
            f"{_shown(header.name)} is not a file name.",
            "Send the name without folders, for example model.onnx.",
        )
    if header.expected_sha256:
        check_sha256(header.expected_sha256, "The expected SHA-256")
    if not header.size_bytes:
        raise InvalidInput(f"The file {_shown(header.name)} is empty.", "Upload a model file.")
    if header.size_bytes > limits.upload_bytes:
        raise TooLarge(
            f"{_shown(header.name)} has {header.size_bytes} bytes, more than the service takes.",
            f"Send a model of at most {limits.upload_bytes / MIB:g} MiB, or raise the service's limit.",
        )
    return header


def check_chunk(
    request: latency_pb2.UploadModelRequest | device_pb2.UploadPayloadRequest, limits: ServiceLimits
) -> bytes:
    """The bytes of a later message of an upload; raises `InvalidInput` or `TooLarge`."""
    if request.WhichOneof("payload") != "chunk" or not request.chunk:
        raise InvalidInput(
            "A message of the upload carries no bytes of the file.",
            "Send one header, then chunks that are not empty.",
        )
    if len(request.chunk) > limits.chunk_bytes:
        raise TooLarge(
            f"A chunk of the upload has {len(request.chunk)} bytes.",
            f"Send at most {limits.chunk_bytes} at a time.",
        )
    return request.chunk


def check_kernels(request: latency_pb2.PredictKernelsRequest, limits: ServiceLimits) -> None:
    """Raise `InvalidInput` or `TooLarge` unless the request names a target and holds kernels within the limits."""
    check_target(request.target)
    if len(request.kernels) > limits.kernels:
        raise TooLarge(
            f"The request has {len(request.kernels)} kernels.", f"Send at most {limits.kernels} kernels a request."
        )
    # A character has at most 4 bytes in UTF-8: most texts need not be encoded to be judged.
    for position, kernel in enumerate(request.kernels):
        if 4 * len(kernel) > limits.kernel_bytes and len(kernel.encode()) > limits.kernel_bytes:
            raise TooLarge(
                f"Kernel {position} of the request has {len(kernel.encode())} bytes.",
                f"Send at most {limits.kernel_bytes} bytes a kernel.",
            )


def check_subnets(request: latency_pb2.PredictSubnetsRequest, limits: ServiceLimits) -> None:
    """Raise `InvalidInput` or `TooLarge` unless the request holds whole subnets, within the limits."""
    check_space(request.space)
    check_target(request.target)
    columns, genes = request.genes_per_subnet, len(request.genes)
    if columns == 0:
        raise InvalidInput("The request has 0 genes per subnet.", "Set genes_per_subnet to the length of the encoding.")
    if genes % columns:
        raise InvalidInput(
            f"{genes} genes are not a whole number of subnets with {columns} genes each.",
            "Send subnet after subnet, all of the same length.",
        )
    if genes > limits.genes or genes // columns > limits.subnets:
        raise TooLarge(
            f"The request has {genes // columns} subnets with {genes} genes in all.",
            f"Send at most {limits.subnets} subnets and {limits.genes} genes a request, more as a stream of batches.",
        )


def _check_text(value: str, what: str, remedy: str) -> str:
    if not value:
        raise InvalidInput(f"The request names no {what}.", remedy)
    if len(value) > MAX_TEXT:
        raise InvalidInput(f"{_shown(value)} is too long for a {what}.", remedy)
    return value


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")
