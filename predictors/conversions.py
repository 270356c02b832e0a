"""Conversions that take seconds to minutes, remembered beside the database."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..db.engine import Database
from ..errors import StorageError


def converted(database: Database, data: bytes, to: str, convert: Callable[[bytes], bytes]) -> bytes:
    """`convert(data)`, or what it gave before; `to` names the outcome: `int8.tflite`. `cache` may be deleted."""
    folder = database.artefacts.root.parent / "cache"
    file = folder / f"{hashlib.sha256(data).hexdigest()}-{to}"
    if file.is_file():
        return file.read_bytes()
    result = convert(data)
    partial: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as handle:
            partial = Path(handle.name)
            handle.write(result)
        partial.replace(file)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise StorageError(f"{file} cannot be written: {error.strerror}.", "Free some space on that disk.") from error
    return result
