"""The vocabulary of TFLite files: the generated flatbuffer schema, element types and operators by name."""

from __future__ import annotations

from functools import cache
from typing import Any

from ...errors import MissingExtra

NO_TENSOR = -1
"""Stands for an operand that is left out."""

_NUMPY_NAMES = {"string": "str", "float8_e4m3fn": "float8e4m3fn", "float8_e5m2": "float8e5m2"}

_OPTIONS = {
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), "Pool2DOptions"),
    **dict.fromkeys(("MEAN", "SUM"), "ReducerOptions"),
    **{f"REDUCE_{name}": "ReducerOptions" for name in ("PROD", "MAX", "MIN", "ANY", "ALL")},
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), "MaximumMinimumOptions"),
    **dict.fromkeys(("RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "MULTINOMIAL"), "RandomOptions"),
    "L2_NORMALIZATION": "L2NormOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
}
"""Tables of options whose names are not made of the operator's."""


def schema() -> Any:
    """The module of the generated schema; MissingExtra when its package is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingExtra("ai-edge-litert", "tflite") from error
    return schema_py_generated


@cache
def members(enumeration: str) -> dict[str, int]:
    """Names and numbers of an enumeration of the schema, such as `BuiltinOperator` or `Padding`."""
    return {name: value for name, value in vars(getattr(schema(), enumeration)).items() if isinstance(value, int)}


@cache
def names(enumeration: str) -> dict[int, str]:
    """Numbers and names of an enumeration of the schema."""
    return {number: name for name, number in members(enumeration).items()}


def dtype_name(tensor_type: int) -> str:
    """`TensorType.FLOAT32` -> `float32`; `other` for a number that this schema does not know."""
    name = names("TensorType").get(tensor_type, "other").lower()
    return _NUMPY_NAMES.get(name, name)


def tensor_type(dtype: str) -> int | None:
    """`float32` -> `TensorType.FLOAT32`; None for what is no element type."""
    return _tensor_types().get(dtype)


@cache
def _tensor_types() -> dict[str, int]:
    return {dtype_name(number): number for number in names("TensorType")}


@cache
def options_table(op_type: str) -> tuple[str, int, int] | None:
    """(name of the table, number of its union, 1 or 2; number in the union) of an operator's options, if it has any."""
    name = _OPTIONS.get(op_type, f"{op_type.replace('_', '')}Options").lower()
    for union, enumeration in ((1, "BuiltinOptions"), (2, "BuiltinOptions2")):
        for member, number in members(enumeration).items():
            if member.lower() == name:
                return member, union, number
    return None
