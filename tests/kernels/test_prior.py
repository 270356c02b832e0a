"""The published networks that ship with the package can all be read, filled and run."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import get_args

import pytest

from milliseek.devices.local import LocalDevice
from milliseek.kernels.costs import macs
from milliseek.kernels.onnx.file import check_model, precision
from milliseek.kernels.onnx.reader import instrument, split
from milliseek.kernels.operators.onnx_graph import read_onnx
from milliseek.kernels.prior import Precision, PriorNetwork, prior_networks
from milliseek.kernels.skeleton import Format
from milliseek.kernels.tflite.file import tflite_precision
from milliseek.kernels.tflite.reader import split_tflite

KINDS = [(model_format, kind) for model_format in get_args(Format) for kind in get_args(Precision)]
FEWEST = {"onnx": (80, 42), "tflite": (80, 42)}
"""Networks and families: the converter to TFLite is slow, and takes not all of them."""

LIMIT_BYTES = 3 << 20


def check(network: PriorNetwork) -> None:
    model = network.model()
    found = precision(check_model(model)) if network.format == "onnx" else tflite_precision(model)
    assert found == network.precision, network.name


@pytest.mark.parametrize(("model_format", "kind"), KINDS)
def test_every_format_and_precision_has_most_published_networks(model_format: Format, kind: Precision) -> None:
    networks = prior_networks(model_format, kind)
    fewest, fewest_families = FEWEST[model_format]
    assert len({network.name for network in networks}) == len(networks) >= fewest
    assert len({network.family for network in networks}) >= fewest_families
    assert {network.name for network in networks} <= {network.name for network in prior_networks("onnx", "fp32")}


def test_the_package_stays_small() -> None:
    archives = [file for file in resources.files("milliseek.kernels.prior").iterdir() if file.name.endswith(".zip")]
    assert len(archives) == len(KINDS)
    assert sum(len(file.read_bytes()) for file in archives) < LIMIT_BYTES


@pytest.mark.parametrize(("model_format", "kind"), KINDS)
def test_some_networks_can_be_filled(model_format: Format, kind: Precision) -> None:
    for network in prior_networks(model_format, kind)[::12]:
        check(network)


@pytest.mark.slow
@pytest.mark.parametrize(("model_format", "kind"), KINDS)
def test_all_networks_can_be_filled(model_format: Format, kind: Precision) -> None:
    for network in prior_networks(model_format, kind):
        check(network)


@pytest.mark.slow
def test_a_network_does_the_same_work_in_both_formats() -> None:
    """A converter may drop what it can compute beforehand, but no convolution."""
    onnx = {network.name: network for network in prior_networks("onnx", "fp32")}
    for network in prior_networks("tflite", "fp32"):
        work = sum(macs(use.kernel) for use in split_tflite(network.model()))
        expected = sum(macs(use.kernel) for use in read_onnx(onnx[network.name].skeleton, network.name))
        assert work == pytest.approx(expected, rel=0.05), network.name


@pytest.mark.parametrize("kind", get_args(Precision))
def test_a_network_has_the_kernels_that_it_is_known_for(device: LocalDevice, kind: Precision) -> None:
    (network,) = [entry for entry in prior_networks("onnx", kind) if entry.name == "mobilenetv1_100"]
    assert network.family == "MobileNetV1"
    optimised = device.optimise(network.model())
    uses = split(optimised, device.tensor_shapes(instrument(optimised)))
    convolutions = Counter(use.kernel.is_depthwise for use in uses if use.kernel.filter is not None)
    assert convolutions == {True: 13, False: 14}


def test_the_readme_tells_where_the_architectures_come_from() -> None:
    readme = Path(str(resources.files("milliseek.kernels.prior"))) / "README.md"
    assert all(word in readme.read_text() for word in ("timm", "Apache-2.0", "pytorchcv", "MIT", "collect_prior.py"))
