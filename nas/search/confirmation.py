"""Candidates confirmed: top-1 on pictures that no choice was made on, and milliseconds measured on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from optuna.study import Study

from ...db.engine import Database
from ...predictors.profiles.evaluation import measure_models
from ...predictors.targets import DeviceTarget
from ...spaces.onnx_network import network_model, random_parameters
from ...spaces.space import Subnet
from ...spaces.tflite_network import tflite_model
from ..pictures.data import Pictures
from ..studies import load_study
from ..training.evaluation import calibration_batches, recalibrate, top1
from ..training.supernet import Supernet
from .subnet_search import EvaluatedSubnet
from .subnet_studies import OnProgress

_ATTRIBUTE = "confirmed:"


@dataclass(frozen=True)
class Confirmation:
    """Of one trial: top-1 on the test pictures, in INT8 and in floating point, and milliseconds measured on `target`.

    `disturbed`: no visit found the device quiet.
    """

    trial: int
    top1: float
    top1_float: float
    target: str
    measured_ms: float
    disturbed: bool


def confirm(
    database: Database,
    target: DeviceTarget,
    supernet: Supernet,
    pictures: Pictures,
    study: str,
    candidates: Sequence[EvaluatedSubnet],
    on_progress: OnProgress = lambda *_: None,
) -> list[Confirmation]:
    """Confirm those of the candidates that were not confirmed on this target before; the study keeps the results.

    What is timed is the network in the format that ships, with other numbers in it.
    """
    stored = load_study(database.url, study)
    known = {(each.trial, each.target): each for each in confirmations(stored)}
    new = [each for each in candidates if (each.trial, target.name) not in known]
    calibration = calibration_batches(pictures)

    def share(subnet: Subnet) -> float:
        return top1(supernet, subnet, recalibrate(supernet, subnet, calibration), pictures, "test")

    accuracy: list[tuple[float, float]] = []
    for i, candidate in enumerate(new):
        on_progress("testing the best", i, len(new))
        quantised = share(candidate.subnet)
        with _floating_point(supernet):
            accuracy.append((quantised, share(candidate.subnet)))
    files = [(f"{study}-{each.trial}", timing_model(each.subnet, supernet.classes, target)) for each in new]
    measured = []
    if files:
        measured = measure_models(
            database, target, files, on_progress=lambda done, total: on_progress("measuring the best", done, total)
        )
    for candidate, (quantised, floating), visits in zip(new, accuracy, measured, strict=True):
        found = Confirmation(candidate.trial, quantised, floating, target.name, visits.latency_ms, visits.disturbed)
        stored.set_user_attr(f"{_ATTRIBUTE}{found.trial}:{found.target}", asdict(found))
        known[found.trial, found.target] = found
    return [known[each.trial, target.name] for each in candidates]


def timing_model(subnet: Subnet, classes: int, target: DeviceTarget) -> bytes:
    """A subnet as a file for a target, with random numbers of the shapes and widths that an export has."""
    network = subnet.network(classes)
    parameters = random_parameters(network.layers, target.weight_bits)
    write = tflite_model if target.format == "tflite" else network_model
    return write(network, parameters, target.precision)


@contextmanager
def _floating_point(supernet: Supernet) -> Iterator[None]:
    """Its quantisers are left out."""
    quantised, supernet.quantised = supernet.quantised, False
    try:
        yield
    finally:
        supernet.quantised = quantised


def confirmations(study: Study) -> list[Confirmation]:
    """All that a study keeps, by trial."""
    found = [Confirmation(**value) for name, value in study.user_attrs.items() if name.startswith(_ATTRIBUTE)]
    return sorted(found, key=lambda each: (each.trial, each.target))
