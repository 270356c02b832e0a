"""Tables of single kernels timed on a device, in the form of mobile-ml-benchmark: an operation and its sizes."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...db.engine import Database
from ...errors import InvalidInput
from ...kernels.kernel import TFLITE_DOMAIN, AttributeValue, Kernel, TensorSpec
from ..models.kernel_model import KernelModel, fit_kernel_model
from ..profiles.fitting import MIN_KERNELS
from ..stored.versions import predictor_version
from .latency_rows import IN_MS, Unit, lines, positive

OPERATION, FEATURE = "operation", "feature"
_DAMAGE = (KeyError, TypeError, ValueError, SyntaxError, ZeroDivisionError, MemoryError, RecursionError)
"""What sizes that are none can raise; the last two are Python's parser on brackets in brackets."""


def kernels_of_table(path: Path, latency: str, unit: Unit) -> tuple[KernelModel, dict[str, Any]]:
    """A model of the kernels of a table, and what to keep of where they came from; raises as `read_kernels`."""
    timed = read_kernels(path, latency, unit)
    if len(timed) < MIN_KERNELS:
        raise InvalidInput(f"{path} has {len(timed)} kernels; {MIN_KERNELS} are needed.", "Leave --kernels out.")
    model = fit_kernel_model(list(timed), np.array(list(timed.values())))
    return model, {"kernels": len(timed), "kernel_table": path.name, "kernel_latency": latency}


def kernels_of_target(database: Database, target: str) -> tuple[KernelModel, dict[str, Any]]:
    """The kernels of a profiled LiteRT target as a first guess, and its predictor's name.

    Raises what `predictor_version` raises, and InvalidInput for a target whose kernels are of another kind.
    """
    version = predictor_version(database, target)
    model = version.predictor.kernel_model
    if not isinstance(model, KernelModel) or not any(name.startswith("CONV_2D:") for name in model.paths):
        raise InvalidInput(
            f"{version.name} knows no kernels of TFLite's operators.",
            "Start from a profiled target such as local/litert/fp32.",
        )
    return model, {"from": version.name}


def read_kernels(path: Path, latency: str, unit: Unit) -> dict[Kernel, float]:
    """Kernels and their milliseconds; of one that comes several times the median.

    A row has `operation` (an operator of TFLite) and `feature`, an object or the text of one, with `Input_shape` and
    `Output_shape` (height, which is the width), `Input_channel`, `Kernel`, `Stride`, `Filter` and `Group`; `latency`
    names the column. Raises InvalidInput, naming file and line, for anything else.
    """
    found: dict[Kernel, list[float]] = defaultdict(list)
    for line, row in lines(path):
        place = f"{path}:{line}"
        operation = row.get(OPERATION) if isinstance(row, dict) else None
        if operation not in _OPERATIONS:
            raise InvalidInput(
                f"{place}: the operation {operation!r} is unknown.", f"Known are {', '.join(sorted(_OPERATIONS))}."
            )
        if latency not in row:
            raise InvalidInput(f"{place}: there is no column '{latency}'.", f"The row has: {', '.join(row)}.")
        latency_ms = positive(place, latency, row[latency]) * IN_MS[unit]
        try:
            kernel = _OPERATIONS[operation](_sizes(row[FEATURE]))
        except _DAMAGE as error:
            raise InvalidInput(
                f"{place}: the sizes of the {operation} do not fit: {error}.", "Mend the row."
            ) from error
        found[kernel].append(latency_ms)
    return {kernel: float(np.median(values)) for kernel, values in found.items()}


def _sizes(feature: Any) -> dict[str, int]:
    """The numbers of a feature dictionary; what is not told (`-`) is left out."""
    content = ast.literal_eval(feature) if isinstance(feature, str) else feature
    if not isinstance(content, Mapping):
        raise TypeError("the feature is no object")
    sizes = {str(key): int(value) for key, value in content.items() if str(value).isdecimal()}
    if any(not 0 <= value < 1 << 40 for value in sizes.values()):
        raise ValueError("a size is out of range")
    return sizes


def _convolution(sizes: Mapping[str, int]) -> Kernel:
    groups = max(1, sizes.get("Group", 1))
    size, channels, out, window = sizes["Output_shape"], sizes["Input_channel"], sizes["Filter"], sizes["Kernel"]
    weights = (out, window, window, channels // groups)
    attributes: dict[str, AttributeValue] = {"group": groups} if groups > 1 else {}
    return _kernel("CONV_2D", sizes, (1, size, size, out), [weights, (out,)], **attributes)


def _depthwise(sizes: Mapping[str, int]) -> Kernel:
    size, channels, window = sizes["Output_shape"], sizes["Input_channel"], sizes["Kernel"]
    weights = (1, window, window, channels)
    return _kernel("DEPTHWISE_CONV_2D", sizes, (1, size, size, channels), [weights, (channels,)], group=channels)


def _linear(sizes: Mapping[str, int]) -> Kernel:
    channels, out = sizes["Input_channel"], sizes["Filter"]
    constants = (_constant((out, channels)), _constant((out,)))
    return Kernel(TFLITE_DOMAIN, "FULLY_CONNECTED", (), (_value((1, channels)), *constants), (_value((1, out)),), 1)


def _pooling(op_type: str) -> Callable[[Mapping[str, int]], Kernel]:
    def operation(sizes: Mapping[str, int]) -> Kernel:
        size, channels, window = sizes["Output_shape"], sizes["Input_channel"], sizes["Kernel"]
        return _kernel(op_type, sizes, (1, size, size, channels), [], kernel_shape=(window, window))

    return operation


def _mean(sizes: Mapping[str, int]) -> Kernel:
    axes = TensorSpec((2,), "int32", constant=True, value=(1, 2))
    out = _value((1, 1, 1, sizes["Input_channel"]))
    return Kernel(TFLITE_DOMAIN, "MEAN", (("axes", (1, 2)),), (_picture(sizes), axes), (out,), 1)


def _concatenation(sizes: Mapping[str, int]) -> Kernel:
    """`Kernel` tensors whose channels add up to `Filter`; how they share them is not told: evenly."""
    count, size, out = max(1, sizes["Kernel"]), sizes["Output_shape"], sizes["Filter"]
    parts = [out // count + (i < out % count) for i in range(count)]
    inputs = tuple(_value((1, size, size, max(1, part))) for part in parts)
    return Kernel(TFLITE_DOMAIN, "CONCATENATION", (("axis", 3),), inputs, (_value((1, size, size, out)),), 1)


def _kernel(
    op_type: str,
    sizes: Mapping[str, int],
    out: tuple[int, ...],
    constants: list[tuple[int, ...]],
    **attributes: AttributeValue,
) -> Kernel:
    stride = max(1, sizes.get("Stride", 1))
    attributes["strides"] = (stride, stride)
    specs = (_picture(sizes), *map(_constant, constants))
    return Kernel(TFLITE_DOMAIN, op_type, tuple(sorted(attributes.items())), specs, (_value(out),), 1)


def _picture(sizes: Mapping[str, int]) -> TensorSpec:
    return _value((1, sizes["Input_shape"], sizes["Input_shape"], sizes["Input_channel"]))


def _value(shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(shape, "float32")


def _constant(shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(shape, "float32", constant=True)


_OPERATIONS: dict[str, Callable[[Mapping[str, int]], Kernel]] = {
    "CONV_2D": _convolution,
    "CONV_2D_GROUP": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _linear,
    "MAX_POOL_2D": _pooling("MAX_POOL_2D"),
    "AVERAGE_POOL_2D": _pooling("AVERAGE_POOL_2D"),
    "MEAN": _mean,
    "CONCATENATION": _concatenation,
}
