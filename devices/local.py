"""This machine as a device that optimises and measures models, each in a process that may crash."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from ..errors import MeasurementError
from .processes.child import Child, ChildDied
from .processes.wire import Header
from .protocol import ProtocolConfig, Visit
from .runtimes.runtime import TensorInfo
from .target import Target

_WORKER_MODULE = f"{__package__}.worker"
_START_LIMIT_S = 60.0

K = TypeVar("K")


class LocalDevice:
    """A context manager around one worker process, pinned to the target's cores.

    One instance is one sitting: its visits share the best probe, also when the worker had to be replaced after
    a model crashed it or hung in it. Safe to call from several threads, one call at a time.

    `time_limit_s` and `memory_limit_bytes` (None: three quarters of the machine, at least 2 GiB) hold for the calls
    from then on. They may be set between two calls: with them a job brings its own.
    """

    def __init__(self, target: Target, config: ProtocolConfig | None = None) -> None:
        self.target = target
        self.config = config or ProtocolConfig()
        self.time_limit_s = self.config.time_limit_s
        self.memory_limit_bytes: int | None = None
        self.probe_best_ms: float | None = None
        self._child: Child | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=error is not None)

    @property
    def worker_pid(self) -> int | None:
        """Process number of the worker; None before the first call and after a crash."""
        return self._child.pid if self._child else None

    def close(self, *, at_once: bool = False) -> None:
        """End the worker; a later call starts another one."""
        child, self._child = self._child, None
        if child:
            child.close(at_once=at_once)

    def interrupt(self) -> None:
        """Kill the worker, if there is one: the call under way in another thread ends as if it had crashed."""
        if child := self._child:
            child.kill()

    def optimise(self, model: bytes, *, hollow: bool = False) -> bytes:
        """The graph that the runtime executes for `model`, to be loaded with optimisation disabled.

        That of a `hollow` model (see `runtime.ZEROS`) is hollow too, and cannot be loaded. Raises MeasurementError when
        the runtime refuses the model, InvalidInput for inputs without a size.
        """
        return self._ask_or_raise({"op": "optimise", "hollow": hollow}, model, "optimising")[1]

    def tensor_shapes(self, instrumented: bytes, *, run: bool = True) -> dict[str, TensorInfo]:
        """Run a model once without optimisation: shape, dtype and small integer values of inputs and outputs.

        With `run` False it is only loaded; the answer is empty where that does not tell everything.
        """
        answer, _ = self._ask_or_raise({"op": "shapes", "run": run}, instrumented, "running")
        return {
            name: TensorInfo(tuple(shape), dtype, None if values is None else tuple(values))
            for name, (shape, dtype, values) in answer["shapes"].items()
        }

    def measure(self, model: bytes, *, optimise: bool, visits: int = 1) -> list[Visit]:
        """Load a model once and time it `visits` times in a row.

        `optimise` is True for a user's file, False for what `optimise` gave and for one-kernel models. A model
        that the runtime refuses, crashes on or hangs in yields visits with an `error`.
        """
        limit_s = self.time_limit_s + visits * self.config.patience_ms / 1e3
        try:
            answer, _ = self._ask({"op": "measure", "optimise": optimise, "visits": visits}, model, limit_s)
        except ChildDied as death:
            return [Visit.failed(str(death))] * visits
        self.probe_best_ms = answer["probe_best_ms"]
        return [Visit(**fields) for fields in answer["visits"]]

    def measure_many(
        self, candidates: Iterable[tuple[K, bytes]], *, optimise: bool = False
    ) -> Iterator[tuple[K, Visit]]:
        """One visit for each (key, model), in order, as they are done; call again for further visits."""
        for key, model in candidates:
            yield key, self.measure(model, optimise=optimise)[0]

    def _ask_or_raise(self, request: Header, model: bytes, doing: str) -> tuple[Header, bytes]:
        try:
            return self._ask(request, model, self.time_limit_s)
        except ChildDied as death:
            raise MeasurementError(
                f"The runtime failed while {doing} the model: {death}",
                "Check that it runs in the runtime alone.",
            ) from death

    def _ask(self, request: Header, model: bytes, limit_s: float) -> tuple[Header, bytes]:
        with self._lock:
            child = self._child or self._start()
            try:
                return child.ask({**request, "memory_limit_bytes": self.memory_limit_bytes}, model, limit_s)
            except (ChildDied, KeyboardInterrupt):
                self.close(at_once=True)
                raise

    def _start(self) -> Child:
        child = self._child = Child(_WORKER_MODULE)
        start = {
            "op": "start",
            "target": str(self.target),
            "config": self.config.to_dict(),
            "probe_best_ms": self.probe_best_ms,
        }
        try:
            child.ask(start, b"", _START_LIMIT_S)
        except ChildDied as death:
            self.close(at_once=True)
            raise MeasurementError(
                f"The measuring process does not start: {death}", "Check the installation of the runtime."
            ) from death
        except BaseException:
            self.close(at_once=True)
            raise
        return child
