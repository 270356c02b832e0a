"""Files of the folder `cache` beside the database, and the conversions that are remembered there."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..db.engine import Database
from ..errors import StorageError


def cache_folder(database: Database) -> Path:
    """Where things lie that are made again when they are gone: `cache` beside the artefacts."""
    return database.artefacts.root.parent / "cache"


def converted(cache: Path, data: bytes, to: str, convert: Callable[[bytes], bytes]) -> bytes:
    """`convert(data)`, or what it gave before; `to` names the outcome: `int8.tflite`."""
    file = cache / f"{hashlib.sha256(data).hexdigest()}-{to}"
    if file.is_file():
        return file.read_bytes()
    result = convert(data)
    write_cached(file, result)
    return result


def write_cached(file: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all; raises StorageError."""
    partial: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as handle:
            partial = Path(handle.name)
            handle.write(data)
        partial.replace(file)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise StorageError(f"{file} cannot be written: {error.strerror}.", "Free some space on that disk.") from error
