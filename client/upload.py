"""Model files on their way to the service."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidInput, MilliseekError, NotFound
from ..rpc.v1 import latency_pb2
from .steps import BrokenAnswer, Call, Steps

CHUNK_BYTES = 1024 * 1024
Model = str | os.PathLike[str] | bytes
"""A path, the bytes of a file, or the SHA-256 of an upload. A file whose name looks like one is meant by a `Path`."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_of(model: Model) -> Steps[str]:
    """The SHA-256 of a model, which is uploaded unless that is what was given."""
    if isinstance(model, str) and _SHA256.fullmatch(model):
        return model
    return (yield from upload(model))


def upload(model: Model, name: str = "", expected_sha256: str = "") -> Steps[str]:
    """Upload a file; see `Client.upload`."""
    with _opened(model) as (file, size_bytes):
        name = name or ("model.onnx" if isinstance(model, bytes) else Path(model).name)
        header = latency_pb2.UploadModelHeader(
            name=_printable(name), expected_sha256=expected_sha256, size_bytes=size_bytes
        )
        sending = _Upload(file, header)
        try:
            response: latency_pb2.UploadModelResponse = yield Call("UploadModel", sending.requests())
        except MilliseekError as error:
            if sending.failure:
                raise _unreadable(name, sending.failure) from error
            raise
    if response.sha256 != sending.sha256.hexdigest():
        raise BrokenAnswer(f"it stored {name} under a SHA-256 that is not its own")
    return response.sha256


class _Upload:
    """The messages of one upload, and what became of the file while gRPC read it."""

    def __init__(self, file: BinaryIO, header: latency_pb2.UploadModelHeader) -> None:
        self.sha256 = hashlib.sha256()
        self.failure: OSError | None = None
        self._file = file
        self._header = header

    def requests(self) -> Iterator[latency_pb2.UploadModelRequest]:
        """The header, then chunks; a file that fails ends early, and the service refuses it by its size."""
        yield latency_pb2.UploadModelRequest(header=self._header)
        while chunk := self._read():
            self.sha256.update(chunk)
            yield latency_pb2.UploadModelRequest(chunk=chunk)

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
def _opened(model: Model) -> Iterator[tuple[BinaryIO, int]]:
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
