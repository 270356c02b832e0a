"""Uploads on their way to the backend."""

from __future__ import annotations

import hashlib
import tempfile
from types import TracebackType
from typing import Self

from ..errors import InvalidInput, StorageError


class Spool:
    """Collects one upload in a file without a name, which the system frees whatever happens to the process.

    Not for several threads at a time. Use as a context manager: the bytes are gone when it ends.
    """

    def __init__(self, size_bytes: int) -> None:
        """`size_bytes`: what the file will have. Raises `StorageError` if the temporary folder is unusable."""
        self.size_bytes = size_bytes
        self._written_bytes = 0
        self._digest = hashlib.sha256()
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise self._storage_error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._file.close()
        except OSError as failure:  # flushing the rest fails on a full disk; the file is closed nevertheless
            if kind is None:
                raise self._storage_error(failure) from failure

    def write(self, chunk: bytes) -> None:
        """Append bytes; raises `InvalidInput` past the size, `StorageError` if the disk is full."""
        if self._written_bytes + len(chunk) > self.size_bytes:
            raise self._size_error(f"more than {self.size_bytes}")
        try:
            self._file.write(chunk)
        except OSError as error:
            raise self._storage_error(error) from error
        self._digest.update(chunk)
        self._written_bytes += len(chunk)

    def read(self, expected_sha256: str = "") -> bytes:
        """The whole file; raises `InvalidInput` if bytes are missing or have not the expected SHA-256.

        gRPC ends the messages of a cancelled call as it ends those of a complete one, so only the size tells.
        """
        if self._written_bytes != self.size_bytes:
            raise self._size_error(f"{self._written_bytes}")
        if expected_sha256 and self._digest.hexdigest() != expected_sha256:
            raise InvalidInput(
                f"The upload has the SHA-256 {self._digest.hexdigest()}, not the expected {expected_sha256}.",
                "Upload the file again; it was changed or damaged on its way.",
            )
        try:
            self._file.seek(0)
            return self._file.read()
        except OSError as error:
            raise self._storage_error(error) from error

    def _size_error(self, found: str) -> InvalidInput:
        return InvalidInput(
            f"The upload has {found} bytes, not the {self.size_bytes} that it announced.",
            "Leave the file unchanged while it is uploaded, and upload it again.",
        )

    def _storage_error(self, error: OSError) -> StorageError:
        folder = tempfile.tempdir or "the temporary folder"
        return StorageError(
            f"The service cannot keep uploads in {folder}: {error.strerror or error}.",
            "Free some space there, or point TMPDIR of the service to another folder.",
        )
