"""Kernels of every layer of a space on one target: asked of the runtime once, remembered in a file."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from ..devices.local import LocalDevice
from ..errors import StorageError
from ..kernels.kernel import Kernel
from ..spaces.layers import Layer
from .splitting import split_layers
from .targets import LocalTarget

CHUNK = 50
"""Layers optimised together: enough to amortise a session, few enough for an optimiser that is quadratic in nodes."""

LayerKernels = dict[Layer, tuple[Kernel, ...]]


def layer_kernels(
    target: LocalTarget,
    layers: Iterable[Layer],
    cache: Path,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> LayerKernels:
    """Kernels by `Layer.workload`, in the order of execution.

    What the runtime answered is kept in the folder `cache`, one file for each target and runtime version; it may be
    deleted at any time. The runtime is asked in as many processes as there are cores.
    """
    wanted = {layer.workload for layer in layers}
    file = cache / f"layers-{target.name.replace('/', '_')}-{target.runtime_version}-{target.weight_bits}bit.json.gz"
    known = _read(file)
    missing = sorted(wanted - known.keys(), key=repr)
    if missing:
        done = 0
        with ExitStack() as stack:
            devices = [stack.enter_context(device) for device in _devices(target)]
            pool = stack.enter_context(ThreadPoolExecutor(len(devices)))
            idle = list(devices)

            def ask(chunk: tuple[Layer, ...]) -> list[tuple[Kernel, ...]]:
                device = idle.pop()  # as many threads as devices: one is always there
                try:
                    return split_layers(device, chunk, target.precision, target.weight_bits)
                finally:
                    idle.append(device)

            chunks = [tuple(missing[i : i + CHUNK]) for i in range(0, len(missing), CHUNK)]
            for chunk, kernels in zip(chunks, pool.map(ask, chunks), strict=True):
                known.update(zip(chunk, kernels, strict=True))
                done += len(chunk)
                on_progress(done, len(missing))
        _write(file, known)
    return {layer: known[layer] for layer in wanted}


def _devices(target: LocalTarget) -> list[LocalDevice]:
    """One worker on each core: they only optimise, nothing is timed."""
    cores = sorted(os.sched_getaffinity(0))
    if target.target.threads > 1:
        return [LocalDevice(target.target)]
    return [LocalDevice(replace(target.target, cores=(core,))) for core in cores]


def _read(file: Path) -> LayerKernels:
    """What the file holds; nothing if there is none, or if it is damaged: it is only a cache."""
    try:
        content: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
        kernels = [Kernel.from_json(text) for text in content["kernels"]]
        return {
            Layer(name, op, tuple(inputs), *rest): tuple(kernels[i] for i in indices)
            for (name, op, inputs, *rest), indices in content["layers"]
        }
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}


def _write(file: Path, known: LayerKernels) -> None:
    numbers: dict[Kernel, int] = {}
    for kernels in known.values():
        for kernel in kernels:
            numbers.setdefault(kernel, len(numbers))
    layers = [[astuple(layer), [numbers[kernel] for kernel in kernels]] for layer, kernels in known.items()]
    data = gzip.compress(json.dumps({"kernels": [k.to_json() for k in numbers], "layers": layers}).encode(), 1)
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
