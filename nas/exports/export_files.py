"""Files of an export on the disk: all of them complete, or none."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from ...errors import StorageError
from ..pictures.data import Pictures

_REMEDY = {errno.ENOSPC: "Free some space and try again.", errno.EDQUOT: "Free some space in your quota and try again."}


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write every path; where one cannot be written, those that are there stay as they were.

    Raises StorageError. (Renaming needs no space: what fails, fails before the first file has its name.)
    """
    partial: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in files.items():
            with _storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial[path] = path.with_name(f".{uuid.uuid4().hex}.partial")
                partial[path].write_bytes(data)
        for path, written in partial.items():
            with _storage_errors(path):
                written.replace(path)
    finally:
        for written in partial.values():
            written.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Make the folder and write something into it, before hours are spent on files for it; raises StorageError."""
    probe = folder / f".{uuid.uuid4().hex}.partial"
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"milliseek")
        finally:
            probe.unlink(missing_ok=True)


def picture_files(pictures: Pictures, folder: Path) -> dict[Path, bytes]:
    """The test pictures as PNG files in `folder`/test-pictures, and the list of them with their classes."""
    from PIL import Image

    files: dict[Path, bytes] = {}
    lines = []
    for i, (pixels, label) in enumerate(zip(pictures.test.pixels, pictures.test.labels, strict=True)):
        name = f"test-pictures/{i:06}.png"
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files[folder / name] = buffer.getvalue()
        lines.append(f"{name}\t{pictures.classes[label]}\n")
    files[folder / "test-pictures.tsv"] = "".join(lines).encode()
    return files


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0, "Choose another folder with --out.")
        raise StorageError(f"{path} cannot be written: {error.strerror}.", remedy) from error
