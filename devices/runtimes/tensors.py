"""Values of tensors: made up for inputs, reported for results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidInput, MeasurementError

if TYPE_CHECKING:
    import numpy.typing as npt

_VALUES_UP_TO = 64
_LARGEST_INPUT = 1 << 28
"""Elements; what claims to be larger is no network's input, but may well take the machine's memory."""


def static_shape(name: str, sizes: Sequence[int | str | None]) -> tuple[int, ...]:
    """The shape to run input `name` with: a leading dimension without a size (a name, None, -1) is taken as 1.

    Raises InvalidInput for other dimensions without a size.
    """
    shape: list[int] = []
    for axis, size in enumerate(sizes):
        if isinstance(size, int) and size >= 0:
            shape.append(size)
        elif axis == 0:
            shape.append(1)
        else:
            word = size if isinstance(size, str) and size else "unnamed"
            raise InvalidInput(
                f"Input '{name}' of the model has a dimension without a size ({word}).", "Give its shape."
            )
    return tuple(shape)


def made_up(name: str, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> npt.NDArray[Any]:
    """A value for input `name` that is legal for most networks and hides no work.

    Floats are standard normal, 8-bit integers uniform over their range, other integers and booleans 1
    (a legal token, segment and mask at once). Raises MeasurementError for what is no tensor of such elements, or huge.
    """
    if math.prod(shape) > _LARGEST_INPUT:
        raise MeasurementError(f"Input '{name}' of shape {shape} is too large to be made up.")
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
        raise MeasurementError(f"Input '{name}' has the type {dtype}, which cannot be made up.") from None


def is_small_integer(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a tensor is reported with its values: shapes, axes, indices."""
    return dtype in ("int32", "int64", "bool") and math.prod(shape) <= _VALUES_UP_TO


def integers(value: npt.NDArray[Any]) -> tuple[int, ...]:
    """The elements of an integer or boolean array, in row-major order."""
    return tuple(int(element) for element in value.ravel())
