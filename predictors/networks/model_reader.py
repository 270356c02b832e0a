"""Parsing files from others in a child process that may crash, hang or run out of memory."""

from __future__ import annotations

import threading
from pathlib import Path

from ...devices.processes.child import Child, ChildDied
from ...devices.processes.wire import Header
from ...errors import InvalidInput
from ...kernels.kernel import Kernel, KernelUse
from .files import ModelForm, Outline, PreparedModel

_WORKER_MODULE = f"{__package__}.reader_worker"
MEMORY_BYTES = 4 << 30
"""A file may have 1 GiB, its fields a third of one; a conversion has a process and a limit of its own."""
READING_LIMIT_S = 60.0
PREPARING_LIMIT_S = 1800.0
"""Conversions of large networks take minutes."""
_START_LIMIT_S = 60.0


class ModelReader:
    """One child process; safe to call from many threads, one call at a time.

    Every method raises InvalidInput for a file that cannot be used, also one at which the child crashed, hung or ran
    out of memory: the next call has a new one.
    """

    def __init__(self) -> None:
        self._child: Child | None = None
        self._lock = threading.Lock()

    @property
    def worker_pid(self) -> int | None:
        """Process number of the child; None before the first call and after a crash."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.close(at_once=True)

    def outline(self, model: bytes | Path, name: str) -> Outline | None:
        """`networks.outline` of bytes or of a file, which the child reads itself: it is checked from end to end."""
        request: Header = {"op": "outline", "name": name}
        if isinstance(model, Path):
            request["path"], model = str(model), b""
        answer, hollow = self._ask(request, model, READING_LIMIT_S)
        return Outline(hollow, answer["precision"]) if answer else None

    def prepare(self, cache: Path, data: bytes, form: ModelForm, name: str) -> PreparedModel:
        """`networks.prepare`: the model as a target of this form runs it."""
        request = {"op": "prepare", "name": name, "cache": str(cache), "form": form.to_dict()}
        answer, prepared = self._ask(request, data, PREPARING_LIMIT_S)
        return PreparedModel(prepared, tuple(answer["notes"]))

    def precision(self, data: bytes, name: str) -> str:
        """`networks.model_precision`: fp32 or int8."""
        answer, _ = self._ask({"op": "precision", "name": name}, data, READING_LIMIT_S)
        return str(answer["precision"])

    def operators(self, data: bytes, name: str) -> list[KernelUse]:
        """`named_networks.model_operators`: of a TFLite file, what its runtime executes."""
        answer, _ = self._ask({"op": "operators", "name": name}, data, READING_LIMIT_S)
        return [
            KernelUse(Kernel.from_json(kernel), use, tuple(inputs), tuple(outputs))
            for kernel, use, inputs, outputs in answer["operators"]
        ]

    def _ask(self, request: Header, data: bytes, limit_s: float) -> tuple[Header, bytes]:
        with self._lock:
            try:
                if self._child is None:
                    self._child = Child(_WORKER_MODULE)
                    self._child.ask({"memory_bytes": MEMORY_BYTES}, b"", _START_LIMIT_S)
                return self._child.ask(request, data, limit_s)
            except ChildDied as death:
                self._child = None
                raise InvalidInput(
                    f"{request['name']} cannot be read: {death}", "Export it again, or give a smaller model."
                ) from death
            except KeyboardInterrupt:
                self._child = None
                raise
