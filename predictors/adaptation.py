"""From the predictor of one target to that of another: a few kernels tell how the new one differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..kernels.kernel import Kernel
from .kernel_model import FLOOR_MS, KernelModel
from .physics import path

PATH_WEIGHT = 3.0
"""A path's own factor counts half when it has this many kernels."""
EXPONENT_WEIGHT = 4.0
"""Strength of the pull of the exponent towards 1."""


BENDS = (0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3)
"""What the exponent may be multiplied by to fit whole networks."""


def bend(model: KernelModel, factor: float) -> KernelModel:
    """The model with every latency raised to the power of `factor`.

    Isolated kernels do not tell everything of how large ones differ from small ones: with more threads each waits for
    them to wake, which inside a network they do not sleep. Whole networks tell the rest (see `fitting`).
    """
    return KernelModel(
        {
            name: replace(path, scale=path.scale**factor, exponent=path.exponent * factor)
            for name, path in model.paths.items()
        }
    )


def adapt(base: KernelModel, kernels: Sequence[Kernel], latency_ms: np.ndarray) -> KernelModel:
    """The model of a known target, bent to kernels (kernels,) measured on a new one, in milliseconds.

    log(new) = common factor + factor of the path + exponent x log(known): the exponent, one for all paths, lets large
    kernels gain more than small ones, as they do from threads. Ridge regression shrinks the factors of paths towards
    0 and the exponent towards 1, so that a path with few kernels or none follows the others.
    """
    known = np.log(np.maximum(base.predict(kernels).latency_ms, FLOOR_MS))
    new = np.log(np.maximum(latency_ms, FLOOR_MS))
    names = sorted({path(kernel) for kernel in kernels})
    own = np.array([[path(kernel) == name for name in names] for kernel in kernels], float)
    system = np.column_stack([np.ones(len(new)), own, known - known.mean()])
    pull = np.diag(np.sqrt([0.0, *[PATH_WEIGHT] * len(names), EXPONENT_WEIGHT]))
    towards = np.zeros(len(pull))
    towards[-1] = math.sqrt(EXPONENT_WEIGHT)
    solution, *_ = np.linalg.lstsq(np.vstack([system, pull]), np.concatenate([new, towards]))
    exponent = float(solution[-1])
    factors = dict(zip(names, solution[1:-1], strict=True))
    # The median forgives the few kernels of which the known target's model, or the visit, is far off.
    common = float(np.median(new - own @ solution[1:-1] - exponent * known))
    return KernelModel(
        {
            name: replace(
                model,
                scale=float(np.exp(common + factors.get(name, 0.0))) * model.scale**exponent,
                exponent=exponent * model.exponent,
            )
            for name, model in base.paths.items()
        }
    )
