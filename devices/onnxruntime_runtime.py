"""ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidInput, MeasurementError, MissingExtra
from .runtime import TensorInfo
from .target import Target

if TYPE_CHECKING:
    import numpy.typing as npt

_PROVIDERS = ["CPUExecutionProvider"]
_VALUES_UP_TO = 64
"""Integer tensors up to this many elements are reported with their values: shapes, axes, indices."""

_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}


class OnnxSession:
    """A session whose inputs and outputs are bound to buffers that live as long as it does."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        for name, value in made_up_inputs(session).items():
            self._binding.bind_ortvalue_input(name, _ort().OrtValue.ortvalue_from_numpy(value))
        outputs = session.get_outputs()
        for output in outputs:
            self._binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(self._binding)
        self.outputs = self._binding.get_outputs()
        for output, value in zip(outputs, self.outputs, strict=True):
            if value.is_tensor() and output.type != "tensor(string)":
                self._binding.bind_ortvalue_output(output.name, value)

    def run(self) -> None:
        """One inference on the bound buffers."""
        try:
            self._session.run_with_iobinding(self._binding)
        except _runtime_errors() as error:
            raise MeasurementError(f"ONNX Runtime cannot run the model: {_one_line(error)}") from error


class OnnxRuntime:
    """The CPU execution provider, `threads` intra-op threads, one inter-op thread, denormals taken as zero."""

    name = "onnxruntime"

    def version(self) -> str:
        """Version of the installed package."""
        try:
            return metadata.version("onnxruntime")
        except metadata.PackageNotFoundError:
            raise MissingExtra("onnxruntime", "server") from None

    def optimise(self, model: bytes, target: Target) -> bytes:
        """The graph after ORT_ENABLE_ALL: fused, with NCHWc and NHWC layouts, weights already reordered.

        Loaded with optimisation disabled it executes the same nodes in the same time.
        """
        with tempfile.TemporaryDirectory(prefix="milliseek-") as folder:
            path = Path(folder) / "optimised.onnx"
            _new_session(model, target, optimise=True, write_to=path)
            return path.read_bytes()

    def tensor_shapes(self, model: bytes, target: Target) -> dict[str, TensorInfo]:
        """Run once without optimisation; what each graph input and output turned out to be, by name."""
        session = _new_session(model, target, optimise=False)
        try:
            values = OnnxSession(session).outputs
        except _runtime_errors() as error:
            raise MeasurementError(f"ONNX Runtime cannot run the model: {_one_line(error)}") from error
        found = {output.name: _describe(value) for output, value in zip(session.get_outputs(), values, strict=True)}
        for item in session.get_inputs():
            found.setdefault(item.name, TensorInfo(_static_shape(item), _dtype(item.type)))
        return found

    def load(self, model: bytes, target: Target, *, optimise: bool) -> OnnxSession:
        """A session with made-up inputs, already run once."""
        session = _new_session(model, target, optimise=optimise)
        try:
            return OnnxSession(session)
        except _runtime_errors() as error:
            raise MeasurementError(f"ONNX Runtime cannot run the model: {_one_line(error)}") from error


def made_up_inputs(session: Any, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Values for the inputs of a session that are legal for most networks and hide no work.

    Floats are standard normal, 8-bit integers uniform over their range, other integers and booleans 1
    (a legal token, segment and mask at once). A leading dimension without a size is taken as 1.
    """
    rng = np.random.default_rng(seed)
    return {item.name: _made_up(item, rng) for item in session.get_inputs()}


def _made_up(item: Any, rng: np.random.Generator) -> npt.NDArray[Any]:
    shape, dtype = _static_shape(item), _dtype(item.type)
    if dtype in ("float32", "float64", "float16"):
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    if dtype in ("int8", "uint8"):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype=np.dtype(dtype), endpoint=True)
    if dtype == "str":
        return np.full(shape, "a", dtype=object)
    try:
        return np.ones(shape, dtype=dtype)
    except TypeError:
        raise MeasurementError(f"Input '{item.name}' has the type {item.type}, which cannot be made up.") from None


def _static_shape(item: Any) -> tuple[int, ...]:
    shape = [1 if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(item.shape)]
    if unknown := [size for size in shape if not isinstance(size, int)]:
        raise InvalidInput(
            f"Input '{item.name}' of the model has a dimension without a size ({unknown[0] or 'unnamed'}).",
            "Give its shape.",
        )
    return tuple(shape)


def _new_session(model: bytes, target: Target, *, optimise: bool, write_to: Path | None = None) -> Any:
    ort = _ort()
    options = ort.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # it warns that an optimised file is for this CPU only: that is the point
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimise else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if write_to is not None:
        options.optimized_model_filepath = str(write_to)
    try:
        return ort.InferenceSession(model, options, providers=_PROVIDERS)
    except _runtime_errors() as error:
        raise MeasurementError(f"ONNX Runtime cannot load the model: {_one_line(error)}") from error


def _describe(value: Any) -> TensorInfo:
    if value.is_tensor_sequence():
        return TensorInfo((), "sequence")
    if not value.is_tensor():
        return TensorInfo((), "other")
    shape, dtype = tuple(value.shape()), _dtype(value.data_type())
    wanted = dtype in ("int32", "int64", "bool") and int(np.prod(shape)) <= _VALUES_UP_TO
    values = tuple(int(element) for element in value.numpy().ravel()) if wanted else None
    return TensorInfo(shape, dtype, values)


def _dtype(ort_type: str) -> str:
    """`tensor(float)` -> `float32`; types that are no tensors keep the word before the bracket."""
    kind, _, inner = ort_type.partition("(")
    if kind != "tensor":
        return "sequence" if kind == "seq" else "other"
    inner = inner.rstrip(")")
    return _NUMPY_NAMES.get(inner, inner)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a model that it cannot take; its classes share no base of their own."""
    state = _ort().capi.onnxruntime_pybind11_state
    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)


def _ort() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingExtra("onnxruntime", "server") from None
    return onnxruntime
