"""From measurements to a predictor that knows how right it is on what it never saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import MeasurementError
from ...kernels.costs import is_view
from ...kernels.kernel import Kernel
from ..models.accuracy import accuracy
from ..models.correction import MIN_NETWORKS, PULL, NetworkSum, fit_correction
from ..models.kernel_model import FLOOR_MS, KernelModel, fit_kernel_model
from ..models.predictor import Predictor
from ..models.report import CurvePoint, Report, TestedKernel, TestedNetwork
from ..targets import DeviceTarget
from .drift import select_references

MIN_KERNELS, MIN_KERNELS_ADAPTED = 30, 5
HELD_OUT_SHARE = 0.1
FOLDS = 4

Fit = Callable[[Sequence[Kernel], np.ndarray], KernelModel]
"""A kernel model from kernels (kernels,) and their milliseconds (kernels,)."""


@dataclass(frozen=True)
class CalibrationNetwork:
    """A whole network measured for the correction: its kernels and its undisturbed visits in milliseconds."""

    name: str
    family: str
    kernels: tuple[Kernel, ...]
    visits_ms: tuple[float, ...]


def is_held_out(kernel: Kernel) -> bool:
    """Whether a kernel is never trained on; decided by its hash, so that it stays so from version to version."""
    return int(kernel.hash[:8], 16) < HELD_OUT_SHARE * 16**8


def fit_predictor(
    target: DeviceTarget,
    measured: Mapping[Kernel, float],
    networks: Sequence[CalibrationNetwork],
    uses: Counter[Kernel],
    curve: Sequence[CurvePoint] = (),
    fit: Fit = fit_kernel_model,
    pull: float = PULL,
    min_kernels: int = MIN_KERNELS,
) -> tuple[Predictor, dict[str, Any]]:
    """A predictor and its held-out accuracy, from kernels in milliseconds and whole networks.

    `uses` counts the networks of the pool that have a kernel; `pull` is that of the correction. Raises
    MeasurementError when there is too little: fewer than `min_kernels` to train on, or than `MIN_NETWORKS`.
    """
    train = {kernel: latency_ms for kernel, latency_ms in measured.items() if not is_held_out(kernel)}
    if len(train) < min_kernels:
        raise MeasurementError(
            f"Only {len(train)} kernels could be measured on {target.name} undisturbed; {min_kernels} are needed.",
            "Give a longer --budget, and stop other programs on that machine.",
        )
    if len(networks) < MIN_NETWORKS:
        raise MeasurementError(
            f"Only {len(networks)} networks could be measured on {target.name} undisturbed; {MIN_NETWORKS} are needed.",
            "Stop other programs on that machine and profile again.",
        )
    model = _fit(fit, train)
    tested = held_out_kernels(model, measured)
    sums = [network_sum(model, network.kernels) for network in networks]
    unseen = _unseen_sums(fit, train, networks, uses)
    correction, left_out = fit_correction(sums, unseen, [network.visits_ms for network in networks], pull)
    lowest = np.array([min(network.visits_ms) for network in networks])
    report = Report(
        kernels=tested,
        networks=tuple(
            TestedNetwork(network.name, float(ms), float(predicted), own.spread)
            for network, ms, predicted, own in zip(networks, lowest, left_out, unseen, strict=True)
        ),
        curve=tuple(curve),
        references=select_references(measured),
    )
    held_out: dict[str, Any] = {"kernels": len(tested)}
    if tested:
        held_out |= held_out_accuracy(tested)
    held_out["networks"] = {"networks": len(networks), **accuracy(np.array(left_out), lowest)}
    return Predictor(target.name, target.runtime_version, model, correction, report), held_out


def held_out_kernels(model: KernelModel, measured: Mapping[Kernel, float]) -> tuple[TestedKernel, ...]:
    """The measured kernels that are never trained on, predicted."""
    test = [kernel for kernel in measured if is_held_out(kernel) and not is_view(kernel)]
    predicted = model.predict(test).latency_ms if test else ()
    return tuple(
        TestedKernel(kernel.hash, kernel.kind, max(measured[kernel], FLOOR_MS), max(float(ms), FLOOR_MS))
        for kernel, ms in zip(test, predicted, strict=True)
    )


def held_out_accuracy(tested: Sequence[TestedKernel]) -> dict[str, float]:
    """The figures of `accuracy`."""
    return accuracy(np.array([t.predicted_ms for t in tested]), np.array([t.measured_ms for t in tested]))


def network_sum(model: KernelModel, kernels: Sequence[Kernel]) -> NetworkSum:
    """A network as the correction sees it, its kernels predicted by this model."""
    counts = Counter(kernels)
    unique = list(counts)
    return NetworkSum.of(model.predict(unique), unique, [counts[kernel] for kernel in unique])


def _fit(fit: Fit, measured: Mapping[Kernel, float]) -> KernelModel:
    return fit(list(measured), np.array(list(measured.values())))


def _unseen_sums(
    fit: Fit, train: Mapping[Kernel, float], networks: Sequence[CalibrationNetwork], uses: Counter[Kernel]
) -> list[NetworkSum]:
    """Each network predicted as one that was never seen: without the kernels that only it, or its fold, has.

    Others that have a kernel are those of the pool, and all of the networks, some of which may not be in the pool.
    """
    having = Counter(kernel for network in networks for kernel in set(network.kernels))
    folds: dict[int, list[int]] = defaultdict(list)
    for position, i in enumerate(sorted(range(len(networks)), key=lambda i: networks[i].family)):
        folds[position % FOLDS].append(i)
    found: dict[int, NetworkSum] = {}
    for members in folds.values():
        inside = Counter(kernel for i in members for kernel in set(networks[i].kernels))
        own = {kernel for kernel, count in inside.items() if count >= max(uses[kernel], having[kernel])}
        model = _fit(fit, {kernel: ms for kernel, ms in train.items() if kernel not in own})
        found |= {i: network_sum(model, networks[i].kernels) for i in members}
    return [found[i] for i in range(len(networks))]
