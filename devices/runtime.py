"""The role of a runtime: what the measuring protocol needs from ONNX Runtime and its like."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..errors import NotFound
from .target import Target


class TensorInfo(NamedTuple):
    """Shape, element type (`float32`, `uint8`, ...) and, for small integer tensors, the values of one run.

    Sequences have dtype `sequence`, maps and optionals `other`; both have shape ().
    """

    shape: tuple[int, ...]
    dtype: str
    values: tuple[int, ...] | None = None


class Session(Protocol):
    """A loaded model with bound inputs and outputs; not thread-safe."""

    def run(self) -> None:
        """One inference on the bound buffers."""


class Runtime(Protocol):
    """Loads, optimises and runs model files of one format. Implementations hold no state.

    Every method raises MeasurementError when the runtime refuses the model.
    """

    @property
    def name(self) -> str:
        """Its name in a target."""

    def version(self) -> str:
        """Version of the installed runtime; MissingExtra when there is none."""

    def optimise(self, model: bytes, target: Target) -> bytes:
        """The graph that the runtime really executes, as a model file that loads without optimisation."""

    def tensor_shapes(self, model: bytes, target: Target) -> dict[str, TensorInfo]:
        """Run once without optimisation; what each graph input and output turned out to be, by name."""

    def load(self, model: bytes, target: Target, *, optimise: bool) -> Session:
        """A session with made-up inputs, already run once, so that its outputs are bound too."""


def get_runtime(name: str) -> Runtime:
    """The runtime of a target; NotFound when no such runtime is built in."""
    if name != "onnxruntime":
        raise NotFound(f"There is no runtime '{name}'.", "Use onnxruntime, as in local/onnxruntime/int8.")
    from .onnxruntime_runtime import OnnxRuntime

    return OnnxRuntime()
