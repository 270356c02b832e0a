"""Options of TFLite operators as attributes of kernels: both ways.

Where ONNX has a word for an option, the attribute bears it: `strides`, `dilations`, `kernel_shape`, `activation`.
The others keep their schema names (`keep_num_dims`). What equals the schema's default is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..kernel import AttributeValue
from .schema import members, names, options_table, schema

_JOINED = {
    "strides": ("strideD", "strideH", "strideW"),
    "dilations": ("dilationDFactor", "dilationHFactor", "dilationWFactor"),
    "kernel_shape": ("filterHeight", "filterWidth"),
}
"""Fields that together are one attribute; an operator has those that its options have."""

_ACTIVATIONS = {"RELU": "Relu", "RELU_N1_TO_1": "ReluN1To1", "RELU6": "Relu6", "TANH": "Tanh", "SIGN_BIT": "SignBit"}
_MEMBERS = {word: member for member, word in _ACTIVATIONS.items()}

_IMPLIED = frozenset({"depthMultiplier", "inDataType", "outDataType", "newShape", "numSplits", "valuesCount", "num"})
"""Fields that shapes and types of the tensors tell."""

_COSMETIC = frozenset({"quantSpec", "potScaleInt16"})
"""Fields that no kernel of the runtime looks at, or only for 16-bit sums."""

_VECTORS: dict[str, type[np.generic]] = {
    "boundaries": np.float32,
    **dict.fromkeys(("squeezeDims", "numColumnsPerChannel", "embeddingDimPerChannel"), np.int32),
}
"""Types of the fields that are vectors, in operators that the runtime has kernels for."""


def read_options(op_type: str, options: Any) -> dict[str, AttributeValue]:
    """Attributes from an options object of the schema; numbers of subgraphs are left out.

    As for the runtime, options that are missing or another operator's have the schema's defaults.
    """
    table = options_table(op_type)
    if table is None:
        return {}
    if type(options) is not _class(table[0]):
        options = _class(table[0])()
    default = vars(_class(table[0])())
    found: dict[str, AttributeValue] = {}
    for attribute, fields in _JOINED.items():
        present = [field for field in fields if field in default]
        values = tuple(int(getattr(options, field)) for field in present)
        if values and values != tuple(default[field] for field in present):
            found[attribute] = values
    joined = {field for fields in _JOINED.values() for field in fields}
    for field, usual in default.items():
        value = getattr(options, field)
        if field in joined or field in _IMPLIED | _COSMETIC or _is_call(field) or value is None:
            continue
        if np.isscalar(value) and value == usual:
            continue
        if field == "fusedActivationFunction":
            found["activation"] = _ACTIVATIONS.get(names("ActivationFunctionType").get(value, ""), str(value))
        elif (plain := _plain(value)) is not None:
            found[_snake(field)] = plain
    if isinstance(default.get("padding"), int):
        found["padding"] = names("Padding").get(int(options.padding), str(options.padding))
    return found


def write_options(op_type: str, attributes: Mapping[str, AttributeValue]) -> dict[str, Any]:
    """Fields for `TFLiteWriter.operator`; attributes that are no options of this operator are left alone.

    Raises ValueError for an activation or padding that the schema does not know, KeyError for a StableHLO vector.
    """
    table = options_table(op_type)
    if table is None:
        return {}
    default = vars(_class(table[0])())
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        field = _camel(name)
        if name == "activation" and "fusedActivationFunction" in default:
            found["fusedActivationFunction"] = _number("ActivationFunctionType", _MEMBERS.get(str(value), ""))
        elif name == "padding" and isinstance(value, str):
            found[field] = _number("Padding", value)
        elif name in _JOINED and isinstance(value, tuple):
            found |= zip((field for field in _JOINED[name] if field in default), value, strict=True)
        elif field in default:
            found[field] = np.array(value, _VECTORS[field]) if isinstance(value, tuple) else value
    return found


def called_subgraphs(operator: Any) -> list[int]:
    """Numbers of the subgraphs that an `OperatorT` runs: branches, loop bodies, decompositions."""
    found: list[int] = []
    for options in (operator.builtinOptions, operator.builtinOptions2):
        for field, value in vars(options).items() if options is not None else ():
            if _is_call(field) and value is not None:
                found += [int(index) for index in np.atleast_1d(value)]
    return found


def _is_call(field: str) -> bool:
    return "subgraph" in field.lower()


def _class(table: str) -> Any:
    return getattr(schema(), f"{table}T")


def _number(enumeration: str, member: str) -> int:
    if member not in members(enumeration):
        raise ValueError(f"the schema's {enumeration} has no '{member}'")
    return members(enumeration)[member]


def _plain(value: Any) -> AttributeValue | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray):
        return tuple(value.tolist()) or None
    if isinstance(value, str | float):
        return value
    return int(value) if isinstance(value, int | np.number | np.bool_) else None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
