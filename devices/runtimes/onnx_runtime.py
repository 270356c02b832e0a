"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...errors import MissingExtra
from ..facts import installed_version
from ..target import Target
from .runtime import ZEROS, TensorInfo, refusal
from .tensors import integers, is_small_integer, made_up, static_shape

_PROVIDERS = ["CPUExecutionProvider"]
_MODEL = "model.onnx"
_ZEROS_BYTES = 1 << 30
_CONSTANTS = "constants"
_HOLLOW = {
    "session.optimized_model_external_initializers_file_name": _CONSTANTS,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.disable_prepacking": "1",  # it is never run
}
_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}


class OnnxSession:
    """A session whose inputs and outputs are bound to buffers that live as long as it does."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        rng = np.random.default_rng(0)
        for item in session.get_inputs():
            value = made_up(item.name, static_shape(item.name, item.shape), _dtype(item.type), rng)
            self._binding.bind_ortvalue_input(item.name, _ort().OrtValue.ortvalue_from_numpy(value))
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
            raise refusal("ONNX Runtime", "run", error) from error


class OnnxRuntime:
    """The CPU execution provider, `threads` intra-op threads, one inter-op thread, denormals taken as zero."""

    name = "onnxruntime"
    # One Identity on a float32 tensor (1,), opset 13: written out, as boards have no onnx package.
    probe_model = bytes.fromhex(
        "08083a370a100a017812017922084964656e746974791201705a0f0a0178120a0a08080112040a020801"
        "620f0a0179120a0a08080112040a02080142040a00100d"
    )

    def version(self) -> str:
        """Version of the installed package."""
        if version := installed_version(self.name):
            return version
        raise MissingExtra("onnxruntime", "server")

    def optimise(self, model: bytes, target: Target, *, hollow: bool = False) -> bytes:
        """The graph after ORT_ENABLE_ALL: fused, with NCHWc and NHWC layouts, weights already reordered.

        Loaded with optimisation disabled it executes the same nodes in the same time.
        """
        with _folder(model) as folder:
            path = folder / "optimised.onnx"
            if hollow:
                (folder / _CONSTANTS).symlink_to(os.devnull)  # nobody reads them
            _new_session(folder / _MODEL, target, optimise=True, write_to=path, entries=_HOLLOW if hollow else {})
            return path.read_bytes()

    def tensor_shapes(self, model: bytes, target: Target, *, run: bool = True) -> dict[str, TensorInfo]:
        """Run once without optimisation; what each graph input and output turned out to be, by name."""
        session = _new_session(model, target, optimise=False)
        if not run:
            return _inferred(session)
        try:
            values = OnnxSession(session).outputs
        except _runtime_errors() as error:
            raise refusal("ONNX Runtime", "run", error) from error
        found = {output.name: _describe(value) for output, value in zip(session.get_outputs(), values, strict=True)}
        for item in session.get_inputs():
            found.setdefault(item.name, TensorInfo(static_shape(item.name, item.shape), _dtype(item.type)))
        return found

    def load(self, model: bytes, target: Target, *, optimise: bool) -> OnnxSession:
        """A session with made-up inputs, already run once."""
        session = _new_session(model, target, optimise=optimise)
        try:
            return OnnxSession(session)
        except _runtime_errors() as error:
            raise refusal("ONNX Runtime", "run", error) from error


@contextmanager
def _folder(model: bytes) -> Iterator[Path]:
    """A folder with the model and the zeros that it may refer to: a file without blocks, read as zeros."""
    with tempfile.TemporaryDirectory(prefix="milliseek-") as name:
        folder = Path(name)
        (folder / _MODEL).write_bytes(model)
        with (folder / ZEROS).open("wb") as zeros:
            zeros.truncate(_ZEROS_BYTES)
        yield folder


def _inferred(session: Any) -> dict[str, TensorInfo]:
    """Shapes that the runtime knows before a run; empty where it does not know them all, or values are wanted."""
    outputs = {}
    for item in session.get_outputs():
        shape, dtype = tuple(item.shape), _dtype(item.type)
        known = item.type.startswith("tensor(") and all(isinstance(size, int) for size in shape)
        # No sizes at all may mean a scalar or that not even their number is known.
        if not shape or not known or is_small_integer(shape, dtype):
            return {}
        outputs[item.name] = TensorInfo(shape, dtype)
    inputs = session.get_inputs()
    return {item.name: TensorInfo(static_shape(item.name, item.shape), _dtype(item.type)) for item in inputs} | outputs


def _new_session(
    model: bytes | Path,
    target: Target,
    *,
    optimise: bool,
    write_to: Path | None = None,
    entries: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    ort = _ort()
    options = ort.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # it warns that an optimised file is for this CPU only: that is the point
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimise else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    for key, value in {"session.set_denormal_as_zero": "1", **entries}.items():
        options.add_session_config_entry(key, value)
    if write_to is not None:
        options.optimized_model_filepath = str(write_to)
    try:
        return ort.InferenceSession(model, options, providers=_PROVIDERS)
    except _runtime_errors() as error:
        raise refusal("ONNX Runtime", "load", error) from error


def _describe(value: Any) -> TensorInfo:
    if value.is_tensor_sequence():
        return TensorInfo((), "sequence")
    if not value.is_tensor():
        return TensorInfo((), "other")
    shape, dtype = tuple(value.shape()), _dtype(value.data_type())
    return TensorInfo(shape, dtype, integers(value.numpy()) if is_small_integer(shape, dtype) else None)


def _dtype(ort_type: str) -> str:
    """`tensor(float)` -> `float32`; types that are no tensors keep the word before the bracket."""
    kind, _, inner = ort_type.partition("(")
    if kind != "tensor":
        return "sequence" if kind == "seq" else "other"
    inner = inner.rstrip(")")
    return _NUMPY_NAMES.get(inner, inner)


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
