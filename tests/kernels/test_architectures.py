"""Published architectures by name."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.util import find_spec

import onnx
import pytest

from milliseek.errors import InvalidInput, NotReady
from milliseek.kernels.architectures import architecture_onnx
from milliseek.kernels.costs import macs
from milliseek.kernels.operators.fusion import fused
from milliseek.kernels.operators.onnx_graph import read_onnx

pytest.importorskip("torch")


def need(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "millions", "convolutions"),
    [
        ("pytorchcv:mobilenet_wd4", 41.0, {"CONV_2D": 14, "DEPTHWISE_CONV_2D": 13}),
        ("pytorchcv:resnet18", 1814.1, {"CONV_2D": 20}),
        ("timm:mobilenetv2_050", 97.0, {"CONV_2D": 35, "DEPTHWISE_CONV_2D": 17}),
    ],
)
def test_published_networks_have_the_published_size(name: str, millions: float, convolutions: dict[str, int]) -> None:
    need(name.partition(":")[0])
    skeleton = architecture_onnx(name)
    assert len(skeleton) < 30_000
    kernels = fused(read_onnx(skeleton, name), "operators")
    assert sum(map(macs, kernels)) / 1e6 == pytest.approx(millions, rel=0.005)
    found = Counter(kernel.op_type for kernel in kernels)
    assert {op_type: found[op_type] for op_type in convolutions} == convolutions
    assert found["FULLY_CONNECTED"] == 1


@pytest.mark.filterwarnings("ignore")
def test_the_resolution_is_the_packages_own_unless_one_is_given() -> None:
    need("pytorchcv")
    need("timm")
    sizes = []
    for name in ("pytorchcv:efficientnet_edge_medium_b", "timm:mobilenetv4_conv_small@64"):
        graph = onnx.ModelProto.FromString(architecture_onnx(name)).graph
        sizes.append([dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim])
    assert sizes == [[1, 3, 240, 240], [1, 3, 64, 64]]


@pytest.mark.filterwarnings("ignore")
def test_a_missing_torchvision_stays_missing() -> None:
    need("timm")
    if find_spec("torchvision") is not None:
        pytest.skip("torchvision is installed")
    architecture_onnx("timm:mobilenetv2_035@64")
    assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]


def test_unknown_names_are_refused_with_close_ones() -> None:
    need("pytorchcv")
    with pytest.raises(
        InvalidInput, match=r"pytorchcv has no architecture 'mobilnet_w1'\. Close to it are mobilenet_w1"
    ):
        architecture_onnx("pytorchcv:mobilnet_w1")


@pytest.mark.parametrize("name", ["resnet18", "keras:resnet18", "timm:", "timm:resnet18@big"])
def test_names_say_their_package(name: str) -> None:
    with pytest.raises(InvalidInput, match="pytorchcv:NAME or timm:NAME"):
        architecture_onnx(name)


def test_a_resolution_that_the_network_cannot_take_is_refused() -> None:
    need("pytorchcv")
    with pytest.raises(InvalidInput, match="cannot be converted to ONNX"):
        architecture_onnx("pytorchcv:mobilenet_w1@16")


def test_what_cannot_be_exported_leaves_stdout_clean(capfd: pytest.CaptureFixture[str]) -> None:
    need("pytorchcv")
    with pytest.raises(InvalidInput, match="adaptive_avg_pool2d"):
        architecture_onnx("pytorchcv:icnet_resnetd50b_cityscapes")
    assert capfd.readouterr().out == ""


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "timm" else object())
    with pytest.raises(NotReady, match="pip install timm"):
        architecture_onnx("timm:resnet18")
