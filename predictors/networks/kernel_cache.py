"""What the runtime answered when asked for kernels, kept in a file that may be deleted at any time."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Self

from ...db.engine import Database
from ...errors import InvalidInput
from ...kernels.kernel import Kernel
from ..conversions import cache_folder, write_cached
from ..targets import DeviceTarget


class KernelCache:
    """Kernels in the order of execution by a key in words; one file for each target, runtime version and `subject`.

    At the end of a `with`, also one that an error ends, what is new is saved.
    """

    def __init__(self, database: Database, target: DeviceTarget, subject: str) -> None:
        folder = cache_folder(database)
        name = f"{subject}-{target.name.replace('/', '_')}-{target.runtime_version}-{target.weight_bits}bit.json.gz"
        self._file: Path = folder / name
        self._known = _read(self._file)
        self._changed = False

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> tuple[Kernel, ...]:
        return self._known[key]

    def get(self, key: str) -> tuple[Kernel, ...] | None:
        """The kernels, or None."""
        return self._known.get(key)

    def __setitem__(self, key: str, kernels: tuple[Kernel, ...]) -> None:
        self._known[key] = kernels
        self._changed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()  # what was learned before an interruption too

    def save(self) -> None:
        """Write the file, if there is anything new; raises StorageError."""
        if not self._changed:
            return
        numbers: dict[Kernel, int] = {}
        for kernels in self._known.values():
            for kernel in kernels:
                numbers.setdefault(kernel, len(numbers))
        uses = {key: [numbers[kernel] for kernel in kernels] for key, kernels in self._known.items()}
        data = gzip.compress(
            json.dumps({"kernels": [kernel.to_json() for kernel in numbers], "uses": uses}).encode(), 1
        )
        write_cached(self._file, data)
        self._changed = False


def _read(file: Path) -> dict[str, tuple[Kernel, ...]]:
    """What the file holds; nothing if there is none, or if it is damaged: it is only a cache."""
    try:
        content = json.loads(gzip.decompress(file.read_bytes()))
        kernels = [Kernel.from_json(text) for text in content["kernels"]]
        return {str(key): tuple(kernels[i] for i in indices) for key, indices in content["uses"].items()}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError, InvalidInput):
        return {}
