"""Static INT8 quantisation of fp32 files, with random calibration data: for timing only, not for accuracy."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...errors import InvalidInput
from .file import check_model, graph_inputs

_MIN_OPSET = 13
"""The first opset whose QuantizeLinear knows per-channel scales."""

_CALIBRATION_INPUTS = 2


def quantise_for_timing(model: bytes, weight_bits: int = 8, seed: int = 0) -> bytes:
    """QDQ form of an fp32 model: uint8 activations, int8 weights with a scale per output channel.

    `weight_bits` is 8, or 7 for x86 CPUs without VNNI, where 8-bit weights saturate. Input shapes must be
    fixed. Raises InvalidInput when ONNX Runtime's quantiser cannot take the model.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if weight_bits not in (7, 8):
        raise ValueError(f"weights have 7 or 8 bits, not {weight_bits}")
    proto = _with_opset(check_model(model))
    with tempfile.TemporaryDirectory(prefix="milliseek-") as folder, _silence():
        source, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "quantised"))
        source.write_bytes(proto.SerializeToString())  # from a ModelProto it would move the weights to other files
        try:
            # Folds batch normalisation into convolutions, as every deployment does before it quantises.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantised),
                _RandomInputs(proto, seed),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=weight_bits == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InvalidInput(
                f"The model cannot be quantised: {reason}", "Quantise it yourself and give the INT8 file."
            ) from error
        return quantised.read_bytes()


class _RandomInputs:
    """Calibration data: standard normal floats, ones for integers."""

    def __init__(self, model: onnx.ModelProto, seed: int) -> None:
        rng = np.random.default_rng(seed)
        inputs = graph_inputs(model)
        self._left = iter([{value.name: _random(value, rng) for value in inputs} for _ in range(_CALIBRATION_INPUTS)])

    def __iter__(self) -> _RandomInputs:
        return self

    def __next__(self) -> dict[str, np.ndarray[Any, Any]]:
        return next(self._left)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next set of inputs, None at the end: what the quantiser calls."""
        return next(self._left, None)


def _random(value: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)


def _with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version >= _MIN_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, _MIN_OPSET)
    except RuntimeError as error:
        raise InvalidInput(
            f"The model's opset {version} cannot be raised to {_MIN_OPSET}, which INT8 needs.", "Export it anew."
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the quantiser's advice on accuracy, which does not matter here, off the user's screen."""
    root = logging.getLogger()
    level, disabled = root.level, logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
