"""From the predictor of one target to that of another: a few kernels tell how the new one differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...kernels.costs import macs
from ...kernels.kernel import Kernel
from .kernel_model import FLOOR_MS, KernelModel, PathModel
from .physics import TERMS, family, path

CLASS_WEIGHT, PATH_WEIGHT = 0.1, 0.3
"""How many kernels of its own it takes for a factor to be half of what they say."""
SMALL_MS = 3e-3
"""Errors of shorter kernels count as those of one this long: they are mostly noise."""
SMALL_ERROR = 0.03
"""Relative errors below this weigh alike."""
REWEIGHTINGS = 15
LEAST_FACTOR = 0.05
"""Of the common factor: what noise may not push the factor of a path below."""

_WORK = np.array([name.endswith("macs") for name in TERMS])


def adapt(base: KernelModel, kernels: Sequence[Kernel], latency_ms: np.ndarray) -> KernelModel:
    """The model of a known target, adapted to kernels (kernels,) measured on a new one, in milliseconds.

    new = factor of the path x known + offset. The offset is common: what every kernel waits for, such as further
    threads. A second thread halves a convolution and leaves a slice as it is, hence factors by path; ridge regression
    shrinks them towards that of their class (kernels that multiply, and those that do not), and these towards a common
    one, so that a path with few kernels or none follows its like. Absolute errors, by reweighting, forgive the few
    kernels of which the known target's model, or the visit, is far off.
    """
    known = np.maximum(base.predict(kernels).latency_ms, FLOOR_MS)
    new = np.maximum(latency_ms, FLOOR_MS)
    usual = float(np.median(new / known))
    names = sorted({path(kernel) for kernel in kernels})
    own = np.array([[path(kernel) == name for name in names] for kernel in kernels], float)
    works = np.array([macs(kernel) > 0 for kernel in kernels], float)
    unit = np.maximum(new, SMALL_MS)
    factors = np.column_stack([np.ones(len(new)), works, own]) * (usual * known / unit)[:, None]
    system = np.column_stack([factors, SMALL_MS / unit])
    pull = np.diag(np.sqrt([0.0, CLASS_WEIGHT, *[PATH_WEIGHT] * len(names), 0.0]))
    weights = np.ones(len(new))
    for _ in range(REWEIGHTINGS):
        towards = np.concatenate([new / unit * weights, np.zeros(len(pull))])
        solution, *_ = np.linalg.lstsq(np.vstack([system * weights[:, None], pull]), towards)
        errors = np.abs(system @ solution - new / unit)
        weights = 1 / np.sqrt(np.maximum(errors, SMALL_ERROR))
        weights /= np.sqrt((weights**2).mean())
    common, more_for_work, *by_path = map(float, solution[:-1])
    offset_ms = max(0.0, SMALL_MS * float(solution[-1]))
    of_path = dict(zip(names, by_path, strict=True))
    known_to_work = {name: macs(kernel) > 0 for kernel in kernels for name in (path(kernel), family(kernel))}

    def adapted(name: str, model: PathModel) -> PathModel:
        does_work = known_to_work.get(name, bool(model.coefficients[_WORK].any()))
        factor = common + more_for_work * does_work + of_path.get(name, 0.0)
        factor = usual * max(factor, LEAST_FACTOR)
        return replace(model, scale=factor * model.scale, offset_ms=factor * model.offset_ms + offset_ms)

    return KernelModel({name: adapted(name, model) for name, model in base.paths.items()})
