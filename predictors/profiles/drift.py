"""Does a predictor still hold? A few reference kernels, measured again, tell."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...db.engine import Database
from ...db.measurements import kernel_measurements
from ...errors import MeasurementError, NotReady
from ...kernels.kernel import Kernel
from ..models.physics import path
from ..models.report import ReferenceKernel
from ..stored.versions import PredictorVersion
from ..targets import device_target, open_device
from .measuring import Measurer

REFERENCES = 12
MIN_REFERENCE_MS = 0.05
"""Shorter kernels say more about the clock than about the machine."""
VISITS = 5
MORE_VISITS = 5
"""A kernel of which every visit was disturbed gets up to so many more."""
FACTOR_TOLERANCE, KERNEL_TOLERANCE, KERNEL_SHARE = 0.05, 0.10, 0.75
"""A predictor holds when the median is within the first and this share of the kernels within the second."""


@dataclass(frozen=True)
class MeasuredAgain:
    """A reference kernel now (the lowest undisturbed visit; None: there was none) and when profiled."""

    kernel: Kernel
    reference_ms: float
    measured_ms: float | None

    @property
    def ratio(self) -> float | None:
        """Now / then."""
        return None if self.measured_ms is None else self.measured_ms / self.reference_ms


@dataclass(frozen=True)
class Drift:
    """Reference kernels of a predictor measured again on its target.

    `factor` is the median of now / then, `spread` the distance between the quartiles; `fitted_version` and
    `runtime_version` are the runtime's versions then and now.
    """

    target: str
    predictor: str
    fitted_version: str
    runtime_version: str
    kernels: tuple[MeasuredAgain, ...]

    @property
    def ratios(self) -> np.ndarray:
        """(kernels with an undisturbed visit,)."""
        return np.array([kernel.ratio for kernel in self.kernels if kernel.ratio is not None])

    @property
    def factor(self) -> float:
        """How much slower (above 1) or faster the target has become."""
        return float(np.median(self.ratios))

    @property
    def spread(self) -> float:
        """Interquartile range of the ratios."""
        low, high = np.quantile(self.ratios, [0.25, 0.75])
        return float(high - low)

    @property
    def within_10(self) -> float:
        """Share of the kernels that take what they took then, within 10 %."""
        return float((np.abs(self.ratios - 1) <= KERNEL_TOLERANCE).mean())

    @property
    def holds(self) -> bool:
        """Whether the predictor may be used as it is."""
        return abs(self.factor - 1) <= FACTOR_TOLERANCE and self.within_10 >= KERNEL_SHARE

    @property
    def verdict(self) -> str:
        """`holds`, `slower` or `faster` (all kernels alike, about), or `changed` (some did, some did not)."""
        if self.holds:
            return "holds"
        if self.spread > 2 * KERNEL_TOLERANCE or abs(self.factor - 1) <= FACTOR_TOLERANCE:
            return "changed"
        return "slower" if self.factor > 1 else "faster"

    @property
    def remedy(self) -> str:
        """What to do; empty when the predictor holds."""
        return "" if self.holds else f"Measure anew: milliseek profile {self.target}"


def check(
    database: Database,
    version: PredictorVersion,
    *,
    visits: int = VISITS,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Drift:
    """Measure the predictor's reference kernels again, in rounds; every visit is stored.

    Raises NotFound where the target's device does not measure, NotReady for a predictor without reference kernels,
    MeasurementError when fewer than half of them could be measured undisturbed.
    """
    references = version.predictor.report.references
    target = device_target(database, version.predictor.target)
    if not references:
        raise NotReady(
            f"The predictor {version.name} has no reference kernels.", f"Profile again: milliseek profile {target.name}"
        )
    kernels = [reference.kernel for reference in references]
    with open_device(database, target) as device:
        measurer = Measurer(database, target, device)
        for round_ in range(visits + MORE_VISITS):
            wanted = kernels if round_ < visits else [k for k in kernels if k.hash not in measurer.quiet]
            measurer.measure_kernels(wanted)
            on_progress(min(round_ + 1, visits), visits)
    with database.session(read_only=True) as session:
        rows = kernel_measurements(session, target.row_id, sitting=measurer.sitting)
    best: dict[str, float] = {}
    for row in rows:
        best[row.hash] = min(best.get(row.hash, np.inf), row.latency_ms)
    again = tuple(MeasuredAgain(r.kernel, r.latency_ms, best.get(r.kernel.hash)) for r in references)
    if 2 * len(best) < len(again):
        failed = f", {len(measurer.failures)} fail in the runtime" if measurer.failures else ""
        raise MeasurementError(
            f"Only {len(best)} of {len(again)} reference kernels were undisturbed on {target.name}{failed}.",
            "Stop other programs on that machine and check again.",
        )
    return Drift(target.name, version.name, version.predictor.runtime_version, target.runtime_version, again)


def select_references(
    measured: Mapping[Kernel, float], count: int = REFERENCES, seed: int = 0
) -> tuple[ReferenceKernel, ...]:
    """So many measured kernels (milliseconds by kernel), spread over paths and, within a path, over log latency.

    Kernels of at least `MIN_REFERENCE_MS` are chosen; where there are too few, the longest ones.
    """
    longest = sorted((k for k in measured if measured[k] > 0), key=lambda k: (-measured[k], k.hash))
    long_enough = [kernel for kernel in longest if measured[kernel] >= MIN_REFERENCE_MS]
    by_path: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in long_enough if len(long_enough) >= count else longest[:count]:
        by_path[path(kernel)].append(kernel)
    # Each path has its turn, the one with most kernels first, until the places are taken.
    turns = sorted((turn, -len(kernels), name) for name, kernels in by_path.items() for turn in range(len(kernels)))
    places = Counter(name for _, _, name in turns[:count])
    rng = np.random.default_rng(seed)
    chosen: list[Kernel] = []
    for name, wanted in sorted(places.items()):
        kernels = by_path[name]
        chosen += _spread(kernels, np.log([measured[kernel] for kernel in kernels]), wanted, rng)
    return tuple(ReferenceKernel(kernel, measured[kernel]) for kernel in chosen)


def _spread(kernels: list[Kernel], position: np.ndarray, places: int, rng: np.random.Generator) -> list[Kernel]:
    """So many distinct kernels: the nearest one to a random point of each of `places` equal parts of the range."""
    points = position.min() + (np.arange(places) + rng.random(places)) / places * np.ptp(position)
    free = np.ones(len(kernels), bool)
    chosen = []
    for point in points:
        nearest = int(np.argmin(np.where(free, np.abs(position - point), np.inf)))
        free[nearest] = False
        chosen.append(kernels[nearest])
    return chosen
