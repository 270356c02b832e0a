"""TFLite files of one operator, from the description of a kernel alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import InvalidInput
from ..kernel import TFLITE_DOMAIN, Kernel, TensorSpec
from .operators import FOLDED
from .options import write_options
from .schema import members, tensor_type
from .values import check_fed, constant_value, input_quantisation, output_quantisation
from .writer import TFLiteWriter

_REMEDY = "It is predicted from its bytes instead."

_NO_ELEMENTS = ("str", "resource", "variant", "float8e4m3fn", "float8e5m2")
_UNBUILDABLE = ("LSTM", "RNN", "SVDF", "VARIABLE", "VAR_HANDLE", "HASHTABLE", "DENSIFY", "STABLEHLO_", "BUILTIN_")
"""Operators that keep a state, read another's, or that the schema's generated code cannot write."""


def one_kernel_tflite(kernel: Kernel, seed: int = 0) -> bytes:
    """A file whose only operator is this kernel (with the PAD before it where `pads` says so).

    Constants hold random values that are realistic for speed: no denormals, 8-bit weights within +-127 with a scale
    for each output channel, scales that keep outputs in range and that the operator allows. Everything lies inside
    the flatbuffer, as XNNPACK packs weights only when it sees them. Other inputs are the graph's inputs `i0`, `i1`,
    ..., outputs are `o0`, ...; integers may be fed as zeros. Equal arguments give equal bytes, and `split_tflite` gives
    the kernel back. Raises InvalidInput for kernels on strings or resources, with subgraphs or a state, with weights
    scaled by block, or whose shapes are computed on the way.
    """
    if kernel.domain != TFLITE_DOMAIN:
        raise ValueError(f"{kernel.kind} is no kernel of a TFLite file")
    _refuse(kernel)
    try:
        return _build(kernel, np.random.default_rng(seed))
    except (IndexError, OverflowError, ValueError) as error:  # files promise nothing about ranks and sizes
        raise InvalidInput(f"A model of {kernel.kind} alone cannot be built: {error}.", _REMEDY) from error


def _build(kernel: Kernel, rng: np.random.Generator) -> bytes:
    writer = TFLiteWriter()
    inputs: list[int | None] = []
    fed: list[int] = []
    for position, spec in enumerate(kernel.inputs):
        if spec is None:
            inputs.append(None)
            continue
        data = constant_value(kernel, position, spec, rng) if spec.constant else None
        quantisation = input_quantisation(kernel, position, spec)
        number = writer.tensor(spec.shape, spec.dtype, data, quantisation, f"i{position}")
        inputs.append(number)
        if data is None:
            check_fed(kernel, position)
            fed.append(number)
    if (pads := kernel.ints("pads")) and kernel.inputs[0] is not None:
        inputs[0] = _pad(writer, kernel, kernel.inputs[0], inputs[0], pads)
    outputs = [
        None
        if spec is None
        else writer.tensor(spec.shape, spec.dtype, None, output_quantisation(kernel, spec), f"o{n}")
        for n, spec in enumerate(kernel.outputs)
    ]
    builtin = kernel.op_type in members("BuiltinOperator")
    custom = kernel.attribute("custom_options")
    writer.operator(
        kernel.op_type if builtin else "CUSTOM",
        inputs,
        outputs,
        {**write_options(kernel.op_type, dict(kernel.attributes)), **_implied(kernel)},
        version=kernel.opset,
        custom_code="" if builtin else kernel.op_type,
        custom_options=bytes.fromhex(custom) if isinstance(custom, str) else b"",
    )
    return writer.finish(fed, [number for number in outputs if number is not None])


def _refuse(kernel: Kernel) -> None:
    specs = [spec for spec in (*kernel.inputs, *kernel.outputs) if spec is not None]
    reasons = {
        "it runs other graphs": kernel.attribute("subgraphs") is not None,
        "it keeps a state, or reads one": any(word in kernel.op_type for word in _UNBUILDABLE),
        "it works on other things than numbers": any(
            spec.dtype in _NO_ELEMENTS or tensor_type(spec.dtype) is None for spec in specs
        ),
        "it runs once, before the first inference": kernel.op_type in FOLDED
        and all(spec.constant for spec in kernel.inputs if spec is not None),
        "its weights are scaled by block": kernel.attribute("weight_quantisation") == "block",
        "its options are too long to keep": str(kernel.attribute("custom_options")).startswith("sha256:"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise InvalidInput(f"A model of {kernel.kind} alone cannot be built: {reason}.", _REMEDY)


def _pad(writer: TFLiteWriter, kernel: Kernel, spec: TensorSpec, source: int | None, pads: tuple[int, ...]) -> int:
    """The padded input of a convolution; pads are (top, left, bottom, right)."""
    top, left, bottom, right = pads
    batch, height, width, channels = spec.shape
    amounts = writer.tensor((4, 2), "int32", np.array([[0, 0], [top, bottom], [left, right], [0, 0]]), name="pads")
    shape = (batch, height + top + bottom, width + left + right, channels)
    padded = writer.tensor(shape, spec.dtype, quantisation=input_quantisation(kernel, 0, spec), name="padded")
    writer.operator("PAD", [source, amounts], [padded], version=1 if spec.dtype == "float32" else 2)
    return padded


def _implied(kernel: Kernel) -> dict[str, Any]:
    """Options that a kernel need not name, as its tensors tell them."""
    sources, targets = kernel.inputs, kernel.outputs
    source, target = (sources[0] if sources else None), (targets[0] if targets else None)
    match kernel.op_type:
        case "RESHAPE" if target is not None:
            return {"newShape": np.array(target.shape, np.int32)}
        case "SPLIT" | "SPLIT_V":
            return {"numSplits": len(targets)}
        case "PACK":
            return {"valuesCount": len(sources)}
        case "UNPACK":
            return {"num": len(targets)}
        case "DEPTHWISE_CONV_2D" if source is not None and target is not None:
            return {"depthMultiplier": target.shape[-1] // max(source.shape[-1], 1)}
        case "CAST" if source is not None and target is not None:
            return {"inDataType": tensor_type(source.dtype), "outDataType": tensor_type(target.dtype)}
        case _:
            return {}
