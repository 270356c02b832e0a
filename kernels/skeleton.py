"""Skeletons: model files without weights, a few KB each, that become whole models again with random weights.

A skeleton keeps the structure of a file: its nodes, shapes, types and all small constants that shape the work.
Kernels are named by just that, so the model that `fill` makes has the same kernels as the one that was stripped.
"""

from __future__ import annotations

from typing import Literal

Format = Literal["onnx", "tflite"]


def strip(model: bytes, format: Format) -> bytes:  # noqa: A002
    """The skeleton of a model file: weights without data, no documentation, short names or none.

    It is no valid model until `fill` made one of it. Where there is a scale per channel, all become their median.
    """
    if format == "onnx":
        from .onnx.skeleton import strip_onnx

        return strip_onnx(model)
    from .tflite.skeleton import strip_tflite

    return strip_tflite(model)


def fill(skeleton: bytes, format: Format, seed: int = 0) -> bytes:  # noqa: A002
    """A whole model with random weights that keep activations at their size; the same for the same seed."""
    if format == "onnx":
        from .onnx.skeleton import fill_onnx

        return fill_onnx(skeleton, seed)
    from .tflite.skeleton import fill_tflite

    return fill_tflite(skeleton, seed)
