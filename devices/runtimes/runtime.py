"""The role of a runtime: what the measuring protocol needs from ONNX Runtime and its like."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ...errors import MeasurementError, NotFound
from ..target import Target

ZEROS = "zeros"
"""The other file in which a hollow model's large constants lie, from its start on: nobody looks at their values."""


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

    @property
    def probe_model(self) -> bytes:
        """A file of one trivial operator on one number: running it costs what any run costs."""

    def version(self) -> str:
        """Version of the installed runtime; MissingExtra when there is none."""

    def optimise(self, model: bytes, target: Target, *, hollow: bool = False) -> bytes:
        """The graph that the runtime really executes, as a model file that loads without optimisation.

        Of a `hollow` model (see `ZEROS`) the result is hollow too: it says what is executed, and cannot be run.
        """

    def tensor_shapes(self, model: bytes, target: Target, *, run: bool = True) -> dict[str, TensorInfo]:
        """Run once without optimisation; what the tensors turned out to be.

        ONNX: each graph input and output, by name. TFLite: each tensor of the main graph, by its index ("0", "1", ...).
        With `run` False the model is only loaded; the answer is empty where that does not tell everything.
        """

    def load(self, model: bytes, target: Target, *, optimise: bool) -> Session:
        """A session with made-up inputs, already run once, so that its outputs are bound too."""


def get_runtime(name: str) -> Runtime:
    """The runtime of a target; NotFound when no such runtime is built in."""
    if name == "onnxruntime":
        from .onnx_runtime import OnnxRuntime

        return OnnxRuntime()
    if name == "litert":
        from .litert import LiteRTRuntime

        return LiteRTRuntime()
    raise NotFound(
        f"There is no runtime '{name}'.",
        "Use onnxruntime for ONNX files, litert for TFLite files, as in local/litert/int8.",
    )


def refusal(runtime: str, verb: str, error: Exception) -> MeasurementError:
    """What to raise when a runtime's own `error` says that it cannot `verb` (load, run) a model."""
    reason = " ".join(str(error).split())[:500] or type(error).__name__
    return MeasurementError(f"{runtime} cannot {verb} the model: {reason}")
