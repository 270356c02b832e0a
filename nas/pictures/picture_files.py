"""Picture files as arrays: listed by class, decoded by threads, and large folders decoded once."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ... import config
from ...errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
WORTH_KEEPING = 2000
"""Folders with at least so many pictures are kept decoded: fewer are decoded in a second or two."""
_FORMAT = 1


@dataclass(frozen=True)
class Decoded:
    """`pixels`: uint8 (n, size, size, 3); `notes`: sentences on what had to be changed, for the user."""

    pixels: np.ndarray
    notes: tuple[str, ...]


def listing(root: Path, classes: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """The pictures in the folders of these classes, and their labels, int64 (n,)."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = root / name
        found = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def decoded(root: Path, files: Sequence[Path], size: int) -> Decoded:
    """The pictures `files` under `root` at `size` x `size`, decoded once where there are many.

    What was decoded is kept in `config.cache_dir()`, one file a folder and size, until a file's name, size or time of
    change is another one. Raises InvalidInput for a file that is no picture.
    """
    if len(files) < WORTH_KEEPING:
        return decode(root, files, size)
    place = hashlib.sha256(f"{root.absolute()}\n{size}".encode()).hexdigest()[:16]
    path = config.cache_dir() / "pictures" / f"{place}.npz"
    key = _key(root, files)
    if (kept := _load(path, key)) is not None:
        return kept
    made = decode(root, files, size)
    try:
        _keep(path, key, made)
    except OSError as error:
        lost = f"The decoded pictures cannot be kept in {path.parent} ({error.strerror}): they are decoded every time."
        return Decoded(made.pixels, (*made.notes, lost))
    return made


def decode(root: Path, files: Sequence[Path], size: int) -> Decoded:
    """As `decoded`, always from the files. Pillow releases the interpreter while it decodes."""
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda position: _read(files[position], pixels[position]), range(len(files))))
    resized = sum(shape != (size, size) for shape, _ in found)
    modes = Counter(mode for _, mode in found if mode != "RGB")
    notes = []
    if resized:
        notes.append(f"{resized} of {len(files)} pictures in {root} were resized to {size} x {size} pixels.")
    if modes:
        kinds = ", ".join(f"{number} {mode}" for mode, number in sorted(modes.items()))
        notes.append(f"{modes.total()} of {len(files)} pictures in {root} became RGB ({kinds}).")
    return Decoded(pixels, tuple(notes))


def _read(file: Path, into: np.ndarray) -> tuple[tuple[int, int], str]:
    """Size and mode of the file's picture, which is written to uint8 (size, size, 3)."""
    from PIL import Image

    size = into.shape[0]
    try:
        with Image.open(file) as picture:
            shape, mode = picture.size, picture.mode
            picture.draft("RGB", (size, size))
            rgb = _as_rgb(picture)
            into[:] = rgb if rgb.size == (size, size) else rgb.resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"'{file}' cannot be read as a picture: {error}.", "Repair or remove it.") from error
    return shape, mode


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Without transparency; 16 bits of grey become 8, which Pillow would clip instead."""
    from PIL import Image

    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its values are not those of 16 bits")
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its pixels are floating point numbers of no known range")
    return picture.convert("RGB")


def _key(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for file in files:
        facts = file.stat()
        digest.update(f"{file.relative_to(root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _load(path: Path, key: str) -> Decoded | None:
    """What was kept under this key; None if nothing was, or if the file is damaged."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            if str(kept["key"]) != key:
                return None
            return Decoded(kept["pixels"], tuple(json.loads(str(kept["notes"]))))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _keep(path: Path, key: str, made: Decoded) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            np.savez(file, key=np.array(key), notes=np.array(json.dumps(made.notes)), pixels=made.pixels)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
