"""Exports: a subnet as a file that carries the trained numbers, checked against the trained network in its runtime."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from ...errors import InvalidInput, MeasurementError
from ...kernels.skeleton import Format
from ...spaces.onnx_network import Precision, network_model
from ...spaces.parameters import NetworkParameters
from ...spaces.space import Subnet
from ...spaces.tflite_network import tflite_model
from ..pictures.data import Pictures, SplitName
from ..training.evaluation import predictions, recalibrate
from ..training.supernet import Supernet
from .deploy import logits_quantiser, network_parameters
from .file_predictions import RUNTIME_NAMES, file_predictions

TOLERANCES: Mapping[Format, float] = {"onnx": 0.003, "tflite": 0.005}
"""Differences between the file's and the network's top-1 that are always accepted."""
CHANCE = 3.0
"""So many standard deviations of what rounding explains are accepted too.

Runtime and training round halves of a code differently, which turns pictures near a class boundary either way: d
pictures with another answer change the share of right ones by sqrt(d) / n, if nothing else is wrong.
"""
SPLITS: tuple[SplitName, ...] = ("val", "test")


class _Form(Protocol):
    @property
    def format(self) -> Format: ...

    @property
    def precision(self) -> Precision: ...


@dataclass(frozen=True, order=True)
class FileForm:
    """What kind of file: `onnx` or `tflite`, in `int8` or `fp32`."""

    format: Format
    precision: Precision

    def __str__(self) -> str:
        return f"{self.format}/{self.precision}"

    @classmethod
    def of(cls, other: _Form) -> FileForm:
        """The form of the files that a target takes."""
        return cls(other.format, other.precision)


@dataclass(frozen=True)
class TrainedNetwork:
    """A subnet in one precision: its numbers, and the classes that training's own arithmetic gives, by split."""

    subnet: Subnet
    classes: int
    precision: Precision
    parameters: NetworkParameters
    answers: Mapping[SplitName, np.ndarray]

    def file(self, format_: Format, metadata: Mapping[str, str] | None = None) -> bytes:
        """The file of that format; equal arguments give equal bytes."""
        write = tflite_model if format_ == "tflite" else network_model
        return write(self.subnet.network(self.classes), self.parameters, self.precision, metadata)

    def top1(self, pictures: Pictures) -> float:
        """Share of the test pictures that it gets right, 0 to 1."""
        return float((self.answers["test"] == pictures.test.labels).mean())


def trained_network(
    supernet: Supernet,
    subnet: Subnet,
    precision: Precision,
    pictures: Pictures,
    calibration: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> TrainedNetwork:
    """A subnet of a supernet under batch norm statistics of its own, measured in its precision.

    In fp32 it has the same weights, not rounded. Raises InvalidInput for int8 where the supernet has no quantisers.
    """
    if precision == "int8" and not supernet.quantised:
        raise InvalidInput(
            "The supernet was trained in floating point only, so it has no scales for an int8 file.",
            "Train it to the end, or export with --precision fp32.",
        )
    view = supernet if precision == "int8" else _floating(supernet)
    statistics = recalibrate(view, subnet, calibration)
    logits = {split: predictions(view, subnet, statistics, pictures, split) for split in SPLITS}
    parameters = network_parameters(view, subnet, statistics)
    if precision == "int8":
        classifier = subnet.network(supernet.classes).layers[-1].name
        quantisers = {**parameters.quantisers, classifier: logits_quantiser(logits["val"])}
        parameters = replace(parameters, quantisers=quantisers)
    answers = {split: found.argmax(1).cpu().numpy() for split, found in logits.items()}
    return TrainedNetwork(subnet, supernet.classes, precision, parameters, answers)


def checked_top1(trained: TrainedNetwork, format_: Format, pictures: Pictures, *, exact: bool = False) -> float:
    """Top-1 of the file on the test pictures, run one by one in the format's runtime on this machine.

    `exact`: see `file_predictions`. Raises MeasurementError where validation and test pictures together differ from the
    trained network by more than `TOLERANCES` and by more than rounding explains (`CHANCE`).
    """
    data = trained.file(format_)
    changed, pairs, top1 = 0, [], 0.0
    for split in SPLITS:
        labels, expected = pictures.split(split).labels, trained.answers[split]
        answers = file_predictions(data, pictures, split, trained.subnet.resolution, exact=exact)
        changed += int((answers != expected).sum())
        pairs.append(((answers == labels), (expected == labels)))
        top1 = float((answers == labels).mean())
    found, wanted = (float(np.concatenate(right).mean()) for right in zip(*pairs, strict=True))
    n = sum(len(pictures.split(split)) for split in SPLITS)
    if abs(found - wanted) > max(TOLERANCES[format_], CHANCE * changed**0.5 / n):
        raise MeasurementError(
            f"The {format_} file of {trained.subnet.encoding} in {trained.precision} reaches {found:.2%} top-1 in "
            f"{RUNTIME_NAMES[format_]}, the trained network {wanted:.2%}: further apart than rounding explains.",
            "The runtime computes something else than was trained; please report it with your CPU model.",
        )
    return top1


def _floating(supernet: Supernet) -> Supernet:
    """The same weights without fake quantisation; the supernet is left as it is."""
    view = copy.copy(supernet)
    view.quantised = False
    return view
