"""Static INT8 quantisation of float32 TFLite files with ai-edge-quantizer; `convert` runs it in a child process."""

from __future__ import annotations

from typing import Any

import numpy as np

from .file import read_tflite
from .graph import constant_bytes, tensor_shape
from .schema import dtype_name, schema
from .writer import pack

_CALIBRATION_INPUTS = 2
_KEPT_FLOAT = ("INPUT", "OUTPUT", "DIV")
"""The ends of the file; and division, which in int8 stops the run at a divisor that rounds to zero."""


def quantise_statically(data: bytes, seed: int) -> bytes:
    """int8 activations, and int8 weights with a scale per output channel; the file's inputs and outputs stay float32.

    Calibrated with random inputs. Divisions, and operators that the quantiser does not know, stay float32 between
    DEQUANTIZE and QUANTIZE.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    model = read_tflite(data)
    _sign(model)
    rng = np.random.default_rng(seed)
    samples = {
        signature.signatureKey: [_random_inputs(model, signature, rng) for _ in range(_CALIBRATION_INPUTS)]
        for signature in model.signatureDefs
    }
    quantiser = quantizer.Quantizer(_packed(model, data), recipe.static_wi8_ai8())
    for name in _KEPT_FLOAT:
        quantiser.update_quantization_recipe(
            ".*", qtyping.TFLOperationName[name], algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )
    quantised = bytes(quantiser.quantize(quantiser.calibrate(samples, num_threads=1)).quantized_model)
    return _packed(read_tflite(quantised), quantised)


def _sign(model: Any) -> None:
    """Give a model without signatures one: the quantiser runs models through theirs alone."""
    if model.signatureDefs:
        for signature in model.signatureDefs:
            signature.signatureKey = signature.signatureKey.decode()
        return
    module, graph = schema(), model.subgraphs[0]
    ends = (
        [module.TensorMapT(f"{end}_{position}", int(index)) for position, index in enumerate(tensors)]
        for end, tensors in (("input", graph.inputs), ("output", graph.outputs))
    )
    model.signatureDefs = [module.SignatureDefT(*ends, "serving_default", 0)]


def _random_inputs(model: Any, signature: Any, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Standard normal floats, ones for integers, as they may be indices."""
    samples = {}
    for entry in signature.inputs:
        tensor = model.subgraphs[signature.subgraphIndex].tensors[entry.tensorIndex]
        shape, dtype = tensor_shape(tensor), np.dtype(dtype_name(tensor.type))
        name = entry.name if isinstance(entry.name, str) else entry.name.decode()
        samples[name] = rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
    return samples


def _packed(model: Any, data: bytes) -> bytes:
    """The file of a model read from `data`, all weights inside the flatbuffer: XNNPACK looks for them nowhere else."""
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        model.buffers[tensor.buffer].data = constant_bytes(model, data, tensor)
    for buffer in model.buffers:
        buffer.offset = buffer.size = 0
    return pack(model)
