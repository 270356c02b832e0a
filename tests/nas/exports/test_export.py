"""Files of a trained subnet: what each answers in its own runtime is what training's arithmetic answers."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from milliseek.devices.runtimes.litert import delegated
from milliseek.errors import InvalidInput, MeasurementError
from milliseek.nas.exports.deploy import logits_quantiser
from milliseek.nas.exports.export import TOLERANCES, FileForm, checked_top1
from milliseek.nas.exports.file_predictions import file_predictions
from milliseek.nas.exports.fine_tuning import with_weight_bits
from milliseek.nas.training.supernet import Supernet

FORMS = [FileForm(format_, precision) for format_ in ("onnx", "tflite") for precision in ("int8", "fp32")]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_files_are_as_accurate_as_what_was_trained(trained, form):
    network = trained.network(form.precision)
    top1 = checked_top1(network, form.format, trained.pictures)
    assert network.top1(trained.pictures) > 0.6
    answers = file_predictions(network.file(form.format), trained.pictures, "test", trained.subnet.resolution)
    assert top1 == np.mean(answers == trained.pictures.test.labels)
    assert np.sum(answers != network.answers["test"]) <= (5 if form.precision == "int8" else 0)


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_a_file_that_computes_something_else_is_noticed(trained, format_):
    network = trained.network("int8")
    layers = dict(network.parameters.layers)
    stem = layers["stem"]
    layers["stem"] = replace(stem, bias=stem.bias + 10)
    with pytest.raises(MeasurementError, match=f"The {format_} file of tiny32-1253-0000.*further apart than rounding"):
        checked_top1(replace(network, parameters=replace(network.parameters, layers=layers)), format_, trained.pictures)


def test_limits_are_three_and_five_tenths_of_a_point():
    assert TOLERANCES == {"onnx": 0.003, "tflite": 0.005}


def test_onnx_files_pass_the_checker(trained):
    for precision in ("int8", "fp32"):
        model = onnx.load_from_string(trained.network(precision).file("onnx", {"said": "so"}))
        onnx.checker.check_model(model, full_check=True)
        assert {entry.key: entry.value for entry in model.metadata_props} == {"said": "so"}


def test_tflite_files_run_in_xnnpack_as_a_whole(trained):
    for precision in ("int8", "fp32"):
        assert all(delegated(trained.network(precision).file("tflite")))


def test_both_formats_carry_the_codes_that_were_trained(trained):
    """Of 7 bits for ONNX Runtime on x86 without VNNI; TFLite, which could use 8, gets the same ones."""
    network = trained.network("int8")
    for name, layer in network.parameters.layers.items():
        codes = layer.weight / layer.weight_scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
        assert np.abs(codes - np.rint(codes)).max() < 1e-3, name
        assert np.abs(np.rint(codes)).max() <= 63, name


def test_eight_bits_are_checked_without_the_kernels_that_would_overflow(trained):
    wide = with_weight_bits(trained.supernet, 8)
    network = trained.network("int8", wide)
    for format_ in ("onnx", "tflite"):  # TFLite's integers never overflow
        answers = file_predictions(
            network.file(format_), trained.pictures, "test", trained.subnet.resolution, exact=format_ == "onnx"
        )
        assert np.sum(answers != network.answers["test"]) <= 5


def test_logits_keep_room_beyond_what_was_seen():
    quantiser = logits_quantiser(torch.tensor([[-4.0, 6.0], [1.0, 2.0]]))
    low, high = (quantiser.scale * (code - quantiser.zero_point) for code in (0, 255))
    assert low == pytest.approx(-5, abs=quantiser.scale)
    assert high == pytest.approx(7, abs=quantiser.scale)
    assert logits_quantiser(torch.zeros(2, 2)).scale > 0


def test_int8_needs_a_quantised_supernet(trained):
    floating = Supernet(trained.supernet.space, 10, 7, only=trained.subnet)
    with pytest.raises(InvalidInput, match="floating point only"):
        trained.network("int8", floating)
    assert trained.network("fp32", floating).parameters.quantisers == {}
