"""The process that runs models: `python -m milliseek.devices.worker`, frames on stdin and stdout.

The first request is `start` (target, protocol, best probe of the sitting so far); after it come `optimise`,
`shapes` and `measure`, each with a model as payload, each answered by one frame. An answer's header holds
`error` (a MilliseekError) or `bug` (a traceback) when the request failed. End of input ends the process, even
in the middle of a run.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import threading
import traceback
from queue import SimpleQueue

from ..errors import InvalidInput, MilliseekError
from .protocol import ProtocolConfig
from .runtime import get_runtime
from .sitting import Sitting
from .target import Target, parse
from .wire import FrameReader, Header, encode

_CHUNK = 1 << 20
_LEAST_MEMORY_BYTES = 2 << 30
_MEMORY_SHARE = 0.75


class Worker:
    """Answers requests for one target."""

    def __init__(self, start: Header) -> None:
        self._target = parse(start["target"])
        pin(self._target)
        self._runtime = get_runtime(self._target.runtime)
        self._runtime.version()
        self._config = ProtocolConfig(**start["config"])
        self._probe_best_ms: float | None = start["probe_best_ms"]
        self._sitting: Sitting | None = None

    def answer(self, request: Header, model: bytes) -> tuple[Header, bytes]:
        """Header and payload of the answer to one request."""
        match request["op"]:
            case "optimise":
                return {}, self._runtime.optimise(model, self._target, hollow=request["hollow"])
            case "shapes":
                return {"shapes": self._runtime.tensor_shapes(model, self._target, run=request["run"])}, b""
            case "measure":
                if self._sitting is None:
                    self._sitting = Sitting(self._runtime, self._target, self._config, self._probe_best_ms)
                visits = self._sitting.measure(model, optimise=request["optimise"], visits=request["visits"])
                best = self._sitting.probe_best_ms
                return {"visits": [dataclasses.asdict(visit) for visit in visits], "probe_best_ms": best}, b""
            case op:
                raise ValueError(f"unknown request {op}")


def pin(target: Target) -> None:
    """Keep this process on the target's cores, else on the highest-numbered ones that it may use.

    Low numbers serve most interrupts, and on big.LITTLE machines the fast cores mostly come last.
    Raises InvalidInput when the machine has too few cores or not the ones asked for.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if missing := set(target.cores or ()) - set(allowed):
        raise InvalidInput(
            f"Target '{target}' asks for core {min(missing)}, which this process may not use.",
            f"Use some of the cores {', '.join(map(str, allowed))}.",
        )
    cores = target.cores or tuple(allowed[-target.threads :])
    if len(cores) < target.threads:
        raise InvalidInput(
            f"Target '{target}' asks for {target.threads} threads, but there are {len(cores)} cores for them.",
            "Use a target with fewer threads.",
        )
    os.sched_setaffinity(0, cores)


def limit_memory() -> None:
    """Keep a model that asks for more memory than there is from taking it from others: the runtime refuses it then."""
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows
        return
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = max(_LEAST_MEMORY_BYTES, int(_MEMORY_SHARE * machine_bytes))
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))


def _read_requests(source: int, requests: SimpleQueue[tuple[Header, bytes]]) -> None:
    """Queue what arrives; when the parent is gone, end at once, whatever the runtime is doing."""
    frames = FrameReader()
    while data := os.read(source, _CHUNK):
        frames.feed(data)
        while (frame := frames.take()) is not None:
            requests.put(frame)
    os._exit(0)


def _write(destination: int, frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[os.write(destination, view) :]


def main() -> None:
    """Serve requests until the input ends."""
    source, destination = os.dup(0), os.dup(1)
    # Native code prints where it likes; the pipe is for frames only.
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is all that is wanted
        os.dup2(nothing.fileno(), 0)
    limit_memory()
    requests: SimpleQueue[tuple[Header, bytes]] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(source, requests), daemon=True).start()
    worker: Worker | None = None
    gc.freeze()
    while True:
        header, payload = requests.get()
        try:
            if worker is None:
                worker = Worker(header)
                answer: tuple[Header, bytes] = ({}, b"")
            else:
                answer = worker.answer(header, payload)
        except MilliseekError as error:
            problem = {"class": type(error).__name__, "message": error.message, "remedy": error.remedy}
            answer = ({"error": problem}, b"")
        except Exception:  # noqa: BLE001 - reported to the parent, which raises it there
            answer = ({"bug": traceback.format_exc()}, b"")
        _write(destination, encode(*answer))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)
