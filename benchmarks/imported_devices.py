"""Predictors learned from whole-network latencies alone, on networks of families that they never saw.

    imported_devices.py --nnmeter FOLDER > nnmeter.json
    imported_devices.py --mobile FOLDER > mobile.json

The first form takes nn-Meter's benchmark (FAMILY.jsonl.gz: 2 000 networks in each of ten families, four devices) and
leaves out one family at a time; at most 300 networks of a family are learned from and tested. The second takes
mobile-ml-benchmark (tflite_cnn_e2e.csv: 102 CNNs of pytorchcv, which must be installed, at 224 x 224 on phones) and
leaves out one group of names at a time: one large core in float and int8, and the GPU, without and with its single
kernels (tflite_cnn_ops_gpu.csv). Everything that is chosen in learning is chosen without what is left out. `linear` is
a non-negative linear model of counts, products and elements by operator, `macs` multiply-accumulates alone.
"""

from __future__ import annotations

import argparse
import csv
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import report

from milliseek.predictors.models.kernel_model import KernelModel, fit_kernel_model
from milliseek.predictors.tables.evaluation import by_family, evaluate_split, figures
from milliseek.predictors.tables.imported import read_networks
from milliseek.predictors.tables.kernel_rows import read_kernels
from milliseek.predictors.tables.latency_rows import Fields
from milliseek.predictors.tables.sums import SumData, TimedNetwork

NNMETER = ("cortexA76cpu_tflite21", "adreno640gpu_tflite21", "adreno630gpu_tflite21", "myriadvpu_openvino2019r2")
PHONES = ("pixel4", "s10", "mi8se", "a03s")
SETTINGS = ("1large|float", "1large|quant", "gpu|float")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnmeter", type=Path, help="folder of nn-Meter's benchmark")
    parser.add_argument("--mobile", type=Path, help="folder of mobile-ml-benchmark")
    parser.add_argument("--devices", nargs="+", help="of them: default all")
    options = parser.parse_args()
    figures_: dict[str, Any] = {}
    if options.nnmeter:
        figures_["nnmeter"] = {name: nnmeter(options.nnmeter, name) for name in options.devices or NNMETER}
    if options.mobile:
        figures_["mobile"] = mobile(options.mobile, options.devices or PHONES)
    figures_["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report("imported_devices", figures_)


def nnmeter(folder: Path, device: str) -> dict[str, Any]:
    """One device: families left out in turn, and how long training on all of them takes."""
    started = time.perf_counter()
    networks = read_networks(sorted(folder.glob("*.jsonl.gz")), Fields(f"latency_ms.{device}"))
    read = time.perf_counter() - started
    SumData(networks).fit()
    trained = time.perf_counter() - started
    return {"reading_seconds": read, "training_seconds": trained, **evaluated(networks, None)}


def mobile(folder: Path, phones: Sequence[str]) -> dict[str, Any]:
    """All settings of the phones; the networks are built once."""
    table, kernels = folder / "tflite_cnn_e2e.csv", folder / "tflite_cnn_ops_gpu.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    columns = [f"{phone}|{setting}|mean" for phone in phones for setting in SETTINGS]
    built: dict[str, list[TimedNetwork]] = {}
    for column in (f"{phones[0]}|1large|float|mean", f"{phones[0]}|gpu|float|mean"):
        built["gpu" if "gpu" in column else "cpu"] = read_networks(
            [table], Fields(column, "us", zoo="pytorchcv", resolution=224)
        )
    found: dict[str, Any] = {}
    for column in (column for column in columns if column in rows[0]):
        latency_ms = {row["model"]: float(row[column]) / 1e3 for row in rows}
        gpu = "|gpu|" in column
        networks = [replace(each, latency_ms=latency_ms[each.name]) for each in built[gpu]]
        found[column.removesuffix("|mean")] = evaluated(networks, None)
        if gpu:
            timed = read_kernels(kernels, column.removesuffix("|mean"), "us")
            model = fit_kernel_model(list(timed), np.array(list(timed.values())))
            found[f"{column.removesuffix('|mean')} with kernels"] = evaluated(networks, model)
    return found


def evaluated(networks: Sequence[TimedNetwork], profiled: KernelModel | None) -> dict[str, Any]:
    """Families left out in turn: over all networks, as the mean over families, by family, and the baselines."""
    rows, means = evaluate_split(networks, "family", profiled)
    mean = means.pop("mean")
    return {"networks": len(rows), **figures(rows), "mean_of_families": mean, **means, "families": by_family(rows)}


if __name__ == "__main__":
    main()
