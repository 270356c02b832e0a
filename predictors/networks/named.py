"""What a table calls a network, as the operators of that network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InvalidInput
from ...kernels.kernel import KernelUse
from ...kernels.operators.graph_json import read_graph
from ...kernels.operators.nasbench201 import cell_kernels, is_cell
from ...kernels.tflite.file import check_tflite, fix_tflite_shapes, is_tflite

ZOOS = ("timm", "pytorchcv")


def named_network(network: Any, folder: Path) -> list[KernelUse]:
    """The unfused operators of a network given as in a table; `folder` is where relative paths start.

    A list of operators (see `kernels.graph_json`), a cell of NAS-Bench-201, `timm:NAME`, `pytorchcv:NAME`, a subnet
    `SPACE:ENCODING` of a space, or the path of an ONNX or TFLite file. Raises InvalidInput for anything else.
    """
    if isinstance(network, list):
        return read_graph(network)
    text = str(network)
    if is_cell(text):
        return cell_kernels(text)
    if text.partition(":")[0] in ZOOS:
        from ...kernels.architectures import architecture_onnx
        from ...kernels.operators.onnx_graph import read_onnx

        return read_onnx(architecture_onnx(text), text)
    if text.endswith((".onnx", ".tflite")):
        path = folder / text
        if not path.is_file():
            raise InvalidInput(f"There is no file '{path}'.", "Paths in a table start at the table's folder.")
        return model_operators(path.read_bytes(), text)
    if ":" in text:
        return _subnet_operators(text)
    raise InvalidInput(
        f"'{text[:100]}' names no network.",
        "Write timm:NAME, pytorchcv:NAME, SPACE:SUBNET, a cell, or the path of an ONNX or TFLite file.",
    )


def model_operators(data: bytes, name: str) -> list[KernelUse]:
    """The operators of an ONNX or TFLite file with fixed shapes; raises InvalidInput."""
    if is_tflite(data):
        from ...kernels.tflite.reader import split_tflite

        return split_tflite(fix_tflite_shapes(check_tflite(data, name=name), {}, name=name))
    from ...kernels.onnx.file import check_model, fix_shapes
    from ...kernels.operators.onnx_graph import read_onnx

    return read_onnx(fix_shapes(check_model(data, name=name), name=name).SerializeToString(), name)


def _subnet_operators(encoding: str) -> list[KernelUse]:
    from ...spaces.onnx_network import network_model, random_parameters
    from ...spaces.space import Subnet

    subnet = Subnet.decode(encoding)
    network = subnet.network(subnet.space.hyperspace.nominal_classes)
    return model_operators(network_model(network, random_parameters(network.layers, 8), "fp32"), encoding)
