"""Taking in the bytes of model files, whatever their format."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInput

MAX_FILE_BYTES = 1 << 30
"""Files are held in memory several times over; protobuf and flatbuffers end at 2 GiB."""


def read_model_file(source: bytes | Path, name: str | None, writer: str) -> tuple[bytes, str]:
    """(bytes, label for messages); InvalidInput for files that are unreadable, empty or over 1 GiB.

    writer: who writes such files, for the remedy: `an ONNX exporter`.
    """
    if isinstance(source, bytes):
        data, label, size = source, f"'{name}'" if name else "The model", len(source)
    else:
        label = f"'{name or source}'"
        try:
            size = source.stat().st_size
            data = source.read_bytes() if size <= MAX_FILE_BYTES else b""
        except OSError as error:
            raise InvalidInput(f"{label} cannot be read: {error.strerror}.", "Check the path.") from error
    if size > MAX_FILE_BYTES:
        raise InvalidInput(f"{label} is larger than {MAX_FILE_BYTES >> 20} MiB.", "Give a smaller model.")
    if not data:
        raise InvalidInput(f"{label} is empty.", f"Give a file written by {writer}.")
    return data, label
