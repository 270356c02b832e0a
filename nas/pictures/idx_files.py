"""IDX files, the format of MNIST and Fashion-MNIST, and the Debian package that holds the latter."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from ...errors import InvalidInput

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package `dataset-fashion-mnist` puts its files."""
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
_UNSIGNED_BYTES = 8


def read_split(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 (n, height, width), int64 (n,)) of `PREFIX-images-idx3-ubyte` and `PREFIX-labels-idx1-ubyte`, or `.gz`.

    Raises InvalidInput where a file is missing, damaged, or the two do not fit.
    """
    pixels = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), 1).astype(np.int64)
    if len(pixels) != len(labels):
        raise InvalidInput(
            f"'{folder}' has {len(pixels)} pictures but {len(labels)} labels of '{prefix}'.", "Copy the files again."
        )
    return pixels, labels


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """uint8 array of an IDX file, compressed or not; raises InvalidInput."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"'{path}' cannot be read: {error}.", "Copy it again.") from error
    header = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:header], dtype=">u4").astype(int) if len(data) >= header else np.array([])
    if data[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)) or len(data) - header != shape.prod():
        raise InvalidInput(f"'{path}' is no IDX file of bytes with {dimensions} dimension(s).", "Copy it again.")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InvalidInput(
        f"There is no file '{name}' or '{name}.gz' in '{folder}'.",
        "Install the Debian package dataset-fashion-mnist, or name the folder: --data fashion-mnist:PATH.",
    )
