"""Kernels read from JSON text, which may come over the network: anything but a kernel is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ..errors import InvalidInput
from .kernel import AttributeValue, ConstantValue, GraphValue, Kernel, TensorSpec, TensorValue

MAX_ELEMENTS = 1 << 48
"""Of one tensor: more than any memory holds, and little enough for every product of sizes to fit a float."""
SPEC_REMEDY = "Use the `spec` of a kernel of a prediction as it is."
MAX_RANK = 64
MAX_NAME = 200

_FIELDS = {"domain", "op_type", "attributes", "inputs", "outputs", "opset"}
_POSITIVE = ("K", "dilations", "group", "kernel_shape", "strides")
"""Attributes that costs are multiplied with, or divided by."""
_INT64 = 1 << 63


def kernel_from_json(text: str) -> Kernel:
    """The kernel that `Kernel.to_json` wrote; raises InvalidInput, and takes time and memory linear in the text."""
    try:
        content = _DECODER.decode(text)
        if not isinstance(content, dict) or content.keys() != _FIELDS:
            raise ValueError(f"it has not the fields {', '.join(sorted(_FIELDS))}")
        attributes = {_name(name): _attribute(value) for name, value in sorted(content["attributes"].items())}
        for name in _POSITIVE:
            if name in attributes:
                _check_positive(name, attributes[name])
        return Kernel(
            domain=_name(content["domain"]),
            op_type=_name(content["op_type"]),
            attributes=tuple(attributes.items()),
            inputs=tuple(map(_spec, content["inputs"])),
            outputs=tuple(map(_spec, content["outputs"])),
            opset=_size(content["opset"]),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInput(f"A text that should be a kernel is none: {error}.", SPEC_REMEDY) from error


def _spec(content: Any) -> TensorSpec | None:
    if content is None:
        return None
    shape, dtype, constant, value = content
    if not isinstance(constant, bool):
        raise TypeError("whether a tensor is constant is not said by true or false")
    return TensorSpec(_shape(shape), _name(dtype), constant, None if value is None else _numbers(value))


def _shape(content: Any) -> tuple[int, ...]:
    if not isinstance(content, list) or len(content) > MAX_RANK:
        raise TypeError(f"a shape is no list of at most {MAX_RANK} sizes")
    elements = 1
    for size in content:
        elements *= max(1, _size(size))
        if elements > MAX_ELEMENTS:
            raise ValueError("a tensor has more elements than any memory")
    return tuple(content)


def _attribute(content: Any) -> AttributeValue:
    if isinstance(content, list):
        if all(isinstance(item, str) for item in content):
            return tuple(content)
        return _numbers(content)
    if isinstance(content, dict) and (tensor := content.get("tensor")) is not None:
        dtype, shape, elements = tensor
        return TensorValue(_name(dtype), _shape(shape), _numbers(elements))
    if isinstance(content, dict) and (graph := content.get("graph")) is not None:
        sha256, data = graph
        if data is not None and not isinstance(data, str):
            raise TypeError("a subgraph is no text")
        return GraphValue(_name(sha256), data)
    return _scalar(content)


def _numbers(content: Any) -> ConstantValue:
    if not isinstance(content, list):
        raise TypeError("the elements of a tensor are no list")  # a text would pass for one
    values = tuple(value for value in map(_scalar, content) if not isinstance(value, str))
    if len(values) != len(content):
        raise TypeError("there are texts among numbers")
    return values


def _scalar(content: Any) -> int | float | str:
    if isinstance(content, dict) and content.keys() == {"float"}:
        return float(_name(content["float"]))
    if isinstance(content, int) and not -_INT64 <= content < _INT64:
        raise ValueError("a number has more than 64 bits")
    if not isinstance(content, int | float | str):
        raise TypeError("a value is neither number nor text")
    return content


def _name(content: Any) -> str:
    if not isinstance(content, str) or len(content) > MAX_NAME:
        raise TypeError(f"a name is no text of at most {MAX_NAME} characters")
    return content


def _size(content: Any) -> int:
    if type(content) is not int or not 0 <= content < _INT64:
        raise TypeError("a size is no whole number of 0 or more")
    return content


def _check_positive(name: str, value: AttributeValue) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) > MAX_RANK or not all(isinstance(n, int) and 0 < n <= MAX_ELEMENTS for n in numbers):
        raise ValueError(f"its attribute '{name}' is not positive")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
