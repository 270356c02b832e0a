"""Tables of single kernels, as mobile-ml-benchmark writes them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milliseek.db.engine import Database
from milliseek.errors import InvalidInput
from milliseek.kernels.costs import macs
from milliseek.kernels.kernel import Kernel, TensorSpec
from milliseek.predictors.models.kernel_model import KernelModel, fit_kernel_model
from milliseek.predictors.tables.kernel_rows import kernels_of_table, kernels_of_target, read_kernels
from milliseek.predictors.tables.sums import TimedNetwork, fit_sums

COLUMN = "pixel4|gpu|float"
SIZES: dict[str, Any] = {
    "Input_shape": "28",
    "Input_channel": 24,
    "Output_shape": "14",
    "Stride": "2",
    "Kernel": "3",
    "Filter": "48",
    "Group": "1",
    "FLOPS": "-",
}


def written(path: Path, *rows: tuple[str, Any, Any]) -> Path:
    """(operation, feature, microseconds) as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "operation", "feature", COLUMN, "kernel"))
        writer.writerows(("net", operation, feature, latency, "opencl") for operation, feature, latency in rows)
    return path


def read(path: Path) -> dict[Kernel, float]:
    return read_kernels(path, COLUMN, "us")


@pytest.mark.parametrize(
    ("operation", "changed", "kind", "work"),
    [
        ("CONV_2D", {}, "CONV_2D 3x3", 14 * 14 * 48 * 24 * 9),
        ("CONV_2D_GROUP", {"Group": "4"}, "CONV_2D 3x3 grouped", 14 * 14 * 48 * 6 * 9),
        ("DEPTHWISE_CONV_2D", {"Filter": "-"}, "DEPTHWISE_CONV_2D 3x3 dw", 14 * 14 * 24 * 9),
        ("FULLY_CONNECTED", {"Stride": "-", "Kernel": "-"}, "FULLY_CONNECTED", 24 * 48),
        ("MAX_POOL_2D", {}, "MAX_POOL_2D 3x3", 0),
        ("AVERAGE_POOL_2D", {}, "AVERAGE_POOL_2D 3x3", 0),
        ("MEAN", {"Output_shape": "-"}, "MEAN", 0),
    ],
)
def test_operations_are_kernels(tmp_path: Path, operation: str, changed: dict[str, str], kind: str, work: int) -> None:
    ((kernel, latency_ms),) = read(written(tmp_path / "k.csv", (operation, {**SIZES, **changed}, 320.5))).items()
    assert (kernel.kind, macs(kernel), latency_ms) == (kind, work, pytest.approx(0.3205))


def test_a_concatenation_shares_its_channels(tmp_path: Path) -> None:
    feature = {**SIZES, "Output_shape": "28", "Filter": "25", "Kernel": "3"}
    (kernel,) = read(written(tmp_path / "k.csv", ("CONCATENATION", feature, 5)))
    assert [spec.shape[3] for spec in kernel.inputs if spec is not None] == [9, 8, 8]
    assert kernel.outputs[0] is not None
    assert kernel.outputs[0].shape == (1, 28, 28, 25)


def test_of_a_kernel_that_comes_several_times_the_median(tmp_path: Path) -> None:
    rows = [("CONV_2D", SIZES, latency) for latency in (100, 900, 200)]
    assert list(read(written(tmp_path / "k.csv", *rows)).values()) == [pytest.approx(0.2)]


def test_json_lines_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "k.jsonl"
    path.write_text('{"operation": "MEAN", "feature": {"Input_shape": 7, "Input_channel": 8}, "ms": 0.25}\n')
    assert list(read_kernels(path, "ms", "ms").values()) == [0.25]


BAD: dict[str, tuple[str, Any, Any, str]] = {
    "operation": ("RNN", SIZES, 1, "operation 'RNN' is unknown"),
    "no feature": ("CONV_2D", "", 1, "sizes of the CONV_2D do not fit"),
    "code": ("CONV_2D", "__import__('os').getcwd()", 1, "do not fit"),
    "list": ("CONV_2D", "[1, 2]", 1, "no object"),
    "half": ("CONV_2D", "{'Kernel':", 1, "do not fit"),
    "deep": ("CONV_2D", "-" * 100_000 + "1", 1, "do not fit"),
    "a size is missing": ("CONV_2D", {**SIZES, "Kernel": "-"}, 1, "Kernel"),
    "huge": ("CONV_2D", {**SIZES, "Filter": "9" * 30}, 1, "out of range"),
    "endless": ("CONV_2D", {**SIZES, "Filter": "9" * 5000}, 1, "do not fit"),
    "nothing": ("FULLY_CONNECTED", {}, 1, "do not fit"),
    "negative": ("CONV_2D", SIZES, -1, "not positive"),
    "zero": ("CONV_2D", SIZES, 0, "not positive"),
    "missing": ("CONV_2D", SIZES, "", "is missing"),
    "words": ("CONV_2D", SIZES, "fast", "no number"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_kernel_is_named_by_line(tmp_path: Path, name: str) -> None:
    *row, reason = BAD[name]
    path = written(tmp_path / "k.csv", ("CONV_2D", SIZES, 1), (row[0], row[1], row[2]))
    with pytest.raises(InvalidInput) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}:3: ")
    assert reason in caught.value.message


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"k\.csv:2: there is no column 'mi8\|gpu\|float'") as caught:
        read_kernels(written(tmp_path / "k.csv", ("CONV_2D", SIZES, 1)), "mi8|gpu|float", "us")
    assert COLUMN in caught.value.remedy


def test_a_model_of_a_table_of_kernels(tmp_path: Path) -> None:
    rows = [
        ("CONV_2D", {**SIZES, "Input_channel": cin, "Filter": cout}, cin * cout / 10)
        for cin in range(8, 56, 8)
        for cout in range(8, 56, 8)
    ]
    path = written(tmp_path / "k.csv", *rows)
    model, told = kernels_of_table(path, COLUMN, "us")
    assert told == {"kernels": 36, "kernel_table": "k.csv", "kernel_latency": COLUMN}
    found = read(path)
    assert model.predict(list(found)).latency_ms == pytest.approx(np.array(list(found.values())), rel=0.1)
    with pytest.raises(InvalidInput, match=r"k\.csv has 1 kernels; \d+ are needed"):
        kernels_of_table(written(tmp_path / "k.csv", rows[0]), COLUMN, "us")


def test_only_targets_with_kernels_of_tflite_are_a_first_guess(home: Path) -> None:
    database = Database.open(f"sqlite:///{home / 'milliseek.db'}")
    with pytest.raises(InvalidInput, match="onnxruntime/fp32@1 knows no kernels of TFLite's operators"):
        kernels_of_target(database, "local/onnxruntime/fp32")
    database.close()


def test_a_like_target_helps_where_networks_are_few() -> None:
    """Its kernels, twice as slow, tell from 12 networks what their sums do not."""
    timed = {product(out): 0.5 + (out % 5) for out in range(8, 80)}
    model = fit_kernel_model(list(timed), np.array(list(timed.values())))
    rng = np.random.default_rng(0)
    networks = []
    for i in range(40):
        kernels = Counter(product(int(out)) for out in rng.integers(8, 80, 5))
        latency_ms = 2 * sum(timed[kernel] * times for kernel, times in kernels.items())
        networks.append(TimedNetwork(f"n{i}", "abc"[i % 3], {"operators": kernels}, latency_ms))
    known, asked = networks[:20], networks[20:]

    def error(profiled: KernelModel | None) -> float:
        fit = fit_sums(known, profiled)
        sums = [
            sum(times * fit.model.predict([kernel]).latency_ms[0] for kernel, times in n.kernels["operators"].items())
            for n in asked
        ]
        return float(np.mean([abs(ms / n.latency_ms - 1) for ms, n in zip(sums, asked, strict=True)]))

    assert error(model) < 0.5 * error(None)


def product(out: int) -> Kernel:
    weights = TensorSpec((out, 1, 1, 16), "float32", constant=True)
    bias = TensorSpec((out,), "float32", constant=True)
    inputs = (TensorSpec((1, 14, 14, 16), "float32"), weights, bias)
    attributes = (("padding", "SAME"), ("strides", (1, 1)))
    return Kernel("tflite", "CONV_2D", attributes, inputs, (TensorSpec((1, 14, 14, out), "float32"),), 1)
