"""Taking in TFLite files: is it one, can it be measured, what precision does it have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidInput
from ..model_file import read_model_file
from .graph import check_model, embedded, scales, tensor_indices, tensor_name, tensor_shape
from .schema import dtype_name, schema
from .verifier import IDENTIFIER, verify
from .writer import pack

_QUANTISED_DTYPES = ("int2", "int4", "uint4", "int8", "uint8", "int16")

Shapes = Mapping[str, tuple[int, ...]]


def is_tflite(data: bytes) -> bool:
    """Whether the bytes claim to be a TFLite file."""
    return data[4:8] == IDENTIFIER


def check_tflite(source: bytes | Path, *, name: str | None = None) -> bytes:
    """The file's bytes; InvalidInput tells what is wrong with them and what to do.

    Refused are files over 1 GiB, foreign or truncated files, references that point outside, constants whose size
    does not fit, tensors of 2 GiB, operators that use what is made later, and weights in other files.
    """
    data, label = read_model_file(source, name, "a TFLite converter")
    read_tflite(data, label)
    return data


def read_tflite(data: bytes, label: str = "The model") -> Any:
    """The `ModelT` of the generated schema, after the checks of `check_tflite`."""
    try:
        verify(data)
        model = schema().ModelT.InitFromPackedBuf(data)
        check_model(model, len(data))
    except ValueError as error:
        raise InvalidInput(
            f"{label} is not a TFLite file that can be used: {error}.", "Copy or convert it again."
        ) from error
    return model


def tflite_precision(data: bytes) -> str:
    """`int8` when any tensor has integer elements with a scale, weights included, else `fp32`."""
    model = read_tflite(data)
    quantised = any(
        dtype_name(tensor.type) in _QUANTISED_DTYPES and scales(tensor).size
        for graph in model.subgraphs
        for tensor in graph.tensors or ()
    )
    return "int8" if quantised else "fp32"


def fix_tflite_shapes(data: bytes, shapes: Shapes | None = None, *, name: str = "The model") -> bytes:
    """The file with every input of a fixed size; the same bytes where all are.

    `shapes` gives whole shapes by the name of the input or its name in a signature. Without one an open leading
    dimension is 1; any other raises InvalidInput naming the input, as do shapes that do not fit. The runtime tells
    what other sizes of the inputs make of the tensors between the operators.
    """
    model = read_tflite(data, name)
    tensors = model.subgraphs[0].tensors
    inputs = tensor_indices(model.subgraphs[0].inputs)
    given = _by_tensor(model, inputs, shapes or {}, name)
    sizes = {index: _fixed_shape(tensors[index], given.get(index), name) for index in inputs}
    changed = {index: size for index, size in sizes.items() if size != tensor_shape(tensors[index])}
    if not changed and all(-1 not in _signature(tensor) for tensor in tensors):
        return data
    if changed:
        for index, size in _propagated(data, changed, name).items():
            if index < len(tensors):
                tensors[index].shape = np.array(size, np.int32)
    for tensor in tensors:
        tensor.shapeSignature = None
    return pack(embedded(model, data))


def _by_tensor(model: Any, inputs: list[int], shapes: Shapes, label: str) -> dict[int, tuple[int, ...]]:
    known = {tensor_name(model.subgraphs[0].tensors[index]): index for index in inputs}
    for signature in model.signatureDefs or ():
        if not signature.subgraphIndex:
            known |= {
                (entry.name or b"").decode("utf-8", "replace"): entry.tensorIndex for entry in signature.inputs or ()
            }
    if unknown := sorted(set(shapes) - set(known)):
        names = ", ".join(f"'{item}'" for item in known)
        raise InvalidInput(f"{label} has no input '{unknown[0]}'.", f"Its inputs are {names}.")
    return {known[name]: tuple(shape) for name, shape in shapes.items()}


def _signature(tensor: Any) -> tuple[int, ...]:
    """Sizes with -1 for those that the file leaves open."""
    shape = tensor_shape(tensor)
    found = () if tensor.shapeSignature is None else tuple(int(size) for size in tensor.shapeSignature)
    return found if len(found) == len(shape) else shape


def _fixed_shape(tensor: Any, given: tuple[int, ...] | None, label: str) -> tuple[int, ...]:
    signature, name = _signature(tensor), tensor_name(tensor)
    written = "x".join("?" if size < 0 else str(size) for size in signature)
    if given is None:
        if any(size < 0 for size in signature[1:]):
            raise InvalidInput(
                f"Input '{name}' ({written}) of {label} has an open dimension.",
                f"Give it, for example --shape {name}=1x224x224x3.",
            )
        return tuple(1 if size < 0 else size for size in signature)
    fits = len(given) == len(signature) and min(given, default=1) > 0
    if not fits or any(size not in (-1, mine) for size, mine in zip(signature, given, strict=True)):
        raise InvalidInput(
            f"Shape {'x'.join(map(str, given))} does not fit input '{name}' ({written}) of {label}.",
            "Give sizes that agree with the fixed dimensions.",
        )
    return given


def _propagated(data: bytes, sizes: Mapping[int, tuple[int, ...]], label: str) -> dict[int, tuple[int, ...]]:
    """Shapes of all tensors, by number, once the inputs have these sizes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # delegates hide the tensors that they do not need
    try:
        interpreter = Interpreter(model_content=data, experimental_op_resolver_type=plain, num_threads=1)
        for index, size in sizes.items():
            interpreter.resize_tensor_input(index, size)
        interpreter.allocate_tensors()
        for entry in interpreter.get_input_details():
            interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
        interpreter.invoke()  # some shapes are results of operators
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"{label} cannot have inputs of this size: {reason}", "Give other sizes.") from error
    return {entry["index"]: tuple(entry["shape"].tolist()) for entry in interpreter.get_tensor_details()}
