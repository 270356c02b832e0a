"""The role of a device that optimises and measures models: this machine, an agent somewhere, a phone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self, TypeVar

from .protocol import Visit
from .runtimes.runtime import TensorInfo
from .target import Target

K = TypeVar("K")


class MeasuringDevice(Protocol):
    """One sitting on one target, a context manager; leaving it by an exception closes it at once.

    A bad model is data: what the runtime refuses, crashes on or hangs in costs only itself, and later calls work.
    Implementations may be called from several threads.
    """

    @property
    def target(self) -> Target:
        """What is measured."""

    def __enter__(self) -> Self:
        """The device itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""

    def close(self, *, at_once: bool = False) -> None:
        """Give back what it holds; `at_once` does not wait for what is under way. May be called twice."""

    def optimise(self, model: bytes, *, hollow: bool = False) -> bytes:
        """The graph that the runtime executes for `model`, to be loaded with optimisation disabled.

        That of a `hollow` model (see `runtime.ZEROS`) is hollow too, and cannot be loaded. Raises MeasurementError when
        the runtime refuses the model, InvalidInput for inputs without a size.
        """

    def tensor_shapes(self, instrumented: bytes, *, run: bool = True) -> dict[str, TensorInfo]:
        """Run a model once without optimisation: shape, dtype and small integer values of inputs and outputs.

        With `run` False it is only loaded; the answer is empty where that does not tell everything. Raises as
        `optimise` does.
        """

    def measure(self, model: bytes, *, optimise: bool, visits: int = 1) -> list[Visit]:
        """Load a model once and time it `visits` times in a row; a model that fails yields visits with an `error`.

        `optimise` is True for a user's file, False for what `optimise` gave and for one-kernel models.
        """

    def measure_many(
        self, candidates: Iterable[tuple[K, bytes]], *, optimise: bool = False
    ) -> Iterator[tuple[K, Visit]]:
        """One visit for each (key, model), in order, as they are done."""
