"""Kernels of every group of layers of a space on one target: asked of the runtime once, remembered in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, replace

from ...db.engine import Database
from ...devices.local import LocalDevice
from ...devices.measuring_device import MeasuringDevice
from ...kernels.kernel import Kernel
from ...spaces.groups import LayerGroup
from ..targets import DeviceTarget, open_device
from .kernel_cache import KernelCache
from .splitting import split_groups

CHUNK = 50
"""Groups optimised together: enough to amortise a session, few enough for an optimiser that is quadratic in nodes."""
ELSEWHERE = 4


def layer_kernels(
    database: Database,
    target: DeviceTarget,
    groups: Iterable[LayerGroup],
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[LayerGroup, tuple[Kernel, ...]]:
    """Kernels of groups of layers, in the order of execution.

    What the runtime answered is kept in the folder `cache`. The runtime is asked by several threads at a time.
    """
    cache = KernelCache(database, target, "groups")
    keys = {group: json.dumps([astuple(layer) for layer in group]) for group in groups}
    missing = sorted((group for group, key in keys.items() if key not in cache), key=keys.__getitem__)
    done = 0
    with ExitStack() as stack:
        stack.enter_context(cache)
        idle = [stack.enter_context(device) for device in split_devices(database, target)]
        pool = stack.enter_context(ThreadPoolExecutor(len(idle)))

        def ask(chunk: list[LayerGroup]) -> list[tuple[Kernel, ...]]:
            device = idle.pop()  # as many threads as devices: one is always there
            try:
                return split_groups(device, chunk, target)
            finally:
                idle.append(device)

        chunks = [missing[i : i + CHUNK] for i in range(0, len(missing), CHUNK)]
        for chunk, found in zip(chunks, pool.map(ask, chunks), strict=True):
            for group, kernels in zip(chunk, found, strict=True):
                cache[keys[group]] = kernels
            done += len(chunk)
            on_progress(done, len(missing))
    return {group: cache[key] for group, key in keys.items()}


def split_devices(database: Database, target: DeviceTarget) -> list[MeasuringDevice]:
    """One worker on each core of this machine, a few elsewhere: they only optimise, nothing is timed."""
    if target.kind != "local":
        return [open_device(database, target) for _ in range(ELSEWHERE)]
    cores = sorted(os.sched_getaffinity(0))
    if target.target.threads > 1:
        return [LocalDevice(target.target)]
    return [LocalDevice(replace(target.target, cores=(core,))) for core in cores]
