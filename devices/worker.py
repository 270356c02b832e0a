"""The process that runs models: `python -m milliseek.devices.worker`, frames on stdin and stdout.

The first request is `start` (target, protocol, best probe of the sitting so far); after it come `optimise`,
`shapes` and `measure`, each with a model as payload, each answered by one frame.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

from ..errors import InvalidInput
from .processes.answering import answer_requests, limit_memory
from .processes.wire import Header
from .protocol import ProtocolConfig
from .runtimes.runtime import get_runtime
from .sitting import Sitting
from .target import Target, parse

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
        limit_memory(min(request["memory_limit_bytes"] or sys.maxsize, allowed_memory_bytes()))
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


def allowed_memory_bytes() -> int:
    """What a model may take at most here, so that one that asks for more is refused and costs nobody else anything."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(_LEAST_MEMORY_BYTES, int(_MEMORY_SHARE * machine_bytes))


def leave_files() -> None:
    """Go where no file is: a model may name any file below the working directory as its constants."""
    folder = tempfile.mkdtemp(prefix="milliseek-")
    os.chdir(folder)
    Path(folder).rmdir()


def main() -> None:
    """Serve requests until the input ends."""
    leave_files()
    limit_memory(allowed_memory_bytes())
    answer_requests(lambda start: Worker(start).answer)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)
