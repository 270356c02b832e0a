"""What an exported file answers in its own runtime, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...devices.runtimes.litert import interpreter_module
from ...kernels.skeleton import Format
from ...kernels.tflite.file import is_tflite
from ..pictures.data import Pictures, SplitName, plain_batches, resize

RUNTIME_NAMES: Mapping[Format, str] = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}

Classify = Callable[[np.ndarray], int]
"""The class of one normalised picture, float32 (3, height, width)."""


def file_predictions(
    data: bytes, pictures: Pictures, split: SplitName, resolution: int, *, exact: bool = False
) -> np.ndarray:
    """Classes (pictures,) that a file gives for a split, one picture at a time.

    `exact`: ONNX Runtime computes what the file says, without its integer kernels. For 8-bit weights on a CPU without
    VNNI, where those saturate: the file is for another CPU then.
    """
    classify = _tflite(data) if is_tflite(data) else _onnx(data, exact=exact)
    batches = (resize(x, resolution).contiguous().numpy() for x, _ in plain_batches(pictures, split, 256))
    return np.array([classify(picture) for batch in batches for picture in batch])


def _onnx(data: bytes, *, exact: bool) -> Classify:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda picture: int(session.run(None, {name: picture[None]})[0].argmax())


def _tflite(data: bytes) -> Classify:
    interpreter = interpreter_module().Interpreter(model_content=data)
    interpreter.allocate_tensors()
    ((source,), (target,)) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(picture: np.ndarray) -> int:
        interpreter.set_tensor(source["index"], np.ascontiguousarray(picture.transpose(1, 2, 0))[None])
        interpreter.invoke()
        return int(interpreter.get_tensor(target["index"]).argmax())

    return classify
