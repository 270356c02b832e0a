"""Cells of a quality table, distilled side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from .quality import CellTask

T = TypeVar("T")
GPU_CELLS = 4
"""Cells that share one GPU: a stage alone leaves most of it idle."""


@dataclass(frozen=True)
class Workers:
    """Where cells are distilled: in `count` processes at a time, on these torch devices in turn."""

    count: int
    devices: tuple[str, ...] = ("cpu",)


def all_workers() -> Workers:
    """One process on each core, or some on each GPU where there are any."""
    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    if gpus:
        return Workers(min(GPU_CELLS * gpus, cores), tuple(f"cuda:{i}" for i in range(gpus)))
    return Workers(cores)


def each_cell(work: Callable[[CellTask], T], tasks: Sequence[CellTask], workers: Workers) -> Iterator[tuple[int, T]]:
    """(position, result) of `work` for every task as soon as it is there; begun in the order of the tasks.

    A single worker is this process.
    """
    waiting = [(i, replace(task, device=workers.devices[i % len(workers.devices)])) for i, task in enumerate(tasks)][
        ::-1
    ]
    if workers.count == 1:
        threads = torch.get_num_threads()
        try:
            yield from ((i, work(task)) for i, task in reversed(waiting))
        finally:
            torch.set_num_threads(threads)
        return
    running: dict[Future[T], int] = {}
    with _pool(max(1, min(len(tasks), workers.count))) as pool:
        while waiting or running:
            while waiting and len(running) <= workers.count:
                i, task = waiting.pop()
                running[pool.submit(work, task)] = i
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with us: on ctrl-C nobody waits for the cells under way."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()
