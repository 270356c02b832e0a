"""Profiling: from nothing to a predictor of one target within a time budget."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..db.artefacts import save_artefact
from ..db.engine import Database
from ..db.measurements import kernel_measurements
from ..db.predictors import add_predictor
from ..devices.local import LocalDevice
from ..errors import MeasurementError
from ..kernels.costs import is_view
from ..kernels.kernel import Kernel
from ..spaces.hyperspace import Hyperspace
from ..spaces.layers import Layer
from ..spaces.space import Space, drawn_subnet
from .accuracy import accuracy
from .correction import MIN_NETWORKS, NetworkSum, fit_correction
from .features import path
from .kernel_model import FLOOR_MS, fit_kernel_model
from .layer_kernels import layer_kernels
from .measuring import Measurer, kernel_of
from .networks import prepare, sample_networks
from .predictor import Predictor, to_bytes
from .splitting import split_network
from .targets import LocalTarget

NETWORKS = 15
"""Whole networks measured for the correction; the notes found 10 to 20 enough."""
ENOUGH_NETWORKS = 6
MORE_ROUNDS = 3
FIRST_PASS = 0.55
"""Share of the time for kernels that goes into new ones; the rest visits them again."""
BUSY_FACTOR, BUSY_EXTRA_S = 2.0, 120.0
"""On a busy machine most visits are disturbed: until there is enough, profiling may take this much in all."""
MAX_POOL_LAYERS = 6000
DRAWN_NETWORKS = 2000
POOL_LAYERS_PER_SECOND = 20
"""Layers split into kernels for every second of budget: about a tenth of the time goes there."""
MIN_KERNELS, ENOUGH_KERNELS = 30, 45
HELD_OUT_SHARE = 0.1

OnProgress = Callable[[str, float, float], None]
"""(phase, done, total)."""


@dataclass(frozen=True)
class Profile:
    """A stored predictor version: how many kernels and networks it rests on and how well it does on others."""

    target: str
    predictor: str
    kernels: int
    networks: int
    seconds: float
    held_out: dict[str, Any]


@dataclass(frozen=True)
class CalibrationNetwork:
    """A whole network measured for the correction: its kernels and its undisturbed visits in milliseconds."""

    name: str
    kernels: tuple[Kernel, ...]
    visits_ms: tuple[float, ...]


def is_held_out(kernel_hash: str) -> bool:
    """Whether a kernel is never trained on; decided by its hash, so that it stays so from version to version."""
    return int(kernel_hash[:8], 16) < HELD_OUT_SHARE * 16**8


def profile(
    database: Database,
    target: LocalTarget,
    sources: Sequence[Hyperspace | Space],
    budget_s: float,
    *,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> Profile:
    """Measure kernels and networks of these spaces or hyperspaces for `budget_s` seconds, fit, store a new version.

    Measurements of earlier sittings with the same runtime version are used too, and their kernels are not
    measured a first time again.
    """
    plan = _Plan(budget_s)
    rng = np.random.default_rng(seed)
    pool_layers = min(MAX_POOL_LAYERS, int(POOL_LAYERS_PER_SECOND * budget_s))
    pool = kernel_pool(database, sources, target, pool_layers, rng, on_progress)
    known = {row.hash for row in _stored(database, target)}
    with LocalDevice(target.target) as device:
        measurer = Measurer(database, target, device)
        networks = [
            (name, prepare(data, target, name)) for name, data in sample_networks(sources, NETWORKS, target, rng)
        ]
        visits: dict[str, list[float]] = defaultdict(list)

        def visit_networks(until: float) -> None:
            for name, model in networks:
                if plan.spent(until, enough=len(visits) >= ENOUGH_NETWORKS):
                    return
                visit = measurer.measure_network(model, name)
                if not visit.disturbed and visit.latency_ms is not None:
                    visits[name].append(visit.latency_ms)

        def visit_kernels(kernels: Sequence[Kernel], until: float) -> None:
            measurer.measure_kernels(
                kernels,
                lambda: not plan.spent(until, enough=len(known | measurer.quiet) >= ENOUGH_KERNELS),
                lambda _: on_progress("measuring kernels", plan.elapsed, plan.deadline - plan.started),
            )

        # The visits of one kernel or network lie apart, so that no single slow minute spoils all of them.
        visit_networks(plan.at(0.3))
        visit_kernels([kernel for kernel in pool if kernel.hash not in known] or pool, plan.at(FIRST_PASS))
        visit_networks(plan.at(0.75))
        again = [kernel for kernel in _measured_kernels(database, target) if kernel.hash not in measurer.failures]
        visit_kernels([again[i] for i in rng.permutation(len(again))], plan.at(0.85))
        for _ in range(MORE_ROUNDS):
            visit_networks(plan.deadline)
        calibration = [
            CalibrationNetwork(
                name, tuple(use.kernel for use in split_network(device, model.data)), tuple(visits[name])
            )
            for name, model in networks
            if visits[name]
        ]
    return _fit_and_store(database, target, calibration, plan.started, seed)


class _Plan:
    """What a time budget means: a share is left for fitting, and a busy machine gets more time rather than nothing."""

    def __init__(self, budget_s: float) -> None:
        self.started = time.monotonic()
        self.deadline = self.started + 0.9 * budget_s
        self._limit = self.started + BUSY_FACTOR * budget_s + BUSY_EXTRA_S

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def at(self, share: float) -> float:
        """The moment when this share of the time from now to the deadline is over."""
        now = time.monotonic()
        return now + share * (self.deadline - now)

    def spent(self, until: float, *, enough: bool) -> bool:
        """Whether to stop: at `until`, or while there is not `enough` data yet only at the hard limit."""
        return time.monotonic() >= (until if enough else max(until, self._limit))


def kernel_pool(
    database: Database,
    sources: Sequence[Hyperspace | Space],
    target: LocalTarget,
    layers_in_all: int,
    rng: np.random.Generator,
    on_progress: OnProgress = lambda *_: None,
) -> list[Kernel]:
    """Distinct kernels of so many layers that networks of the sources have, in the order in which to measure them.

    Every path of the runtime has its turn early, and a share that grows with the square root of how many kernels it
    has; within a path, what occurs in many networks comes first.
    """
    counts = _drawn_layers(sources, layers_in_all, rng)
    split = layer_kernels(
        target,
        counts,
        database.artefacts.root.parent / "cache",
        lambda done, total: on_progress("splitting into kernels", done, total),
    )
    weights: Counter[Kernel] = Counter()
    for layer, count in counts.items():
        for kernel in split[layer]:
            if not is_view(kernel):
                weights[kernel] += count
    by_path: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in weights:
        by_path[path(kernel)].append(kernel)
    ranked = []
    for _, kernels in sorted(by_path.items()):
        # Efraimidis and Spirakis, 2006: sorting by u^(1/w) draws without replacement in proportion to w.
        keys = np.log(rng.random(len(kernels))) / np.array([weights[kernel] for kernel in kernels])
        for rank, i in enumerate(np.argsort(-keys, kind="stable")):
            ranked.append(((rank + rng.random()) / len(kernels) ** 0.5, kernels[i]))
    return [kernel for _, kernel in sorted(ranked, key=lambda pair: pair[0])]


def _drawn_layers(sources: Sequence[Hyperspace | Space], limit: int, rng: np.random.Generator) -> Counter[Layer]:
    """How often each layer occurs in random networks of the sources; at most `limit` distinct layers."""
    counts: Counter[Layer] = Counter()
    for i in range(DRAWN_NETWORKS):
        subnet = drawn_subnet(sources[i % len(sources)], rng)
        counts.update(layer.workload for layer in subnet.network(subnet.space.hyperspace.nominal_classes).layers)
        if len(counts) >= limit:
            break
    return counts


def _stored(database: Database, target: LocalTarget) -> list[Any]:
    with database.session(read_only=True) as session:
        return list(kernel_measurements(session, target.row_id, runtime_version=target.runtime_version))


def _measured_kernels(database: Database, target: LocalTarget) -> list[Kernel]:
    return [kernel_of(spec) for spec in {row.hash: row.spec for row in _stored(database, target)}.values()]


def _fit_and_store(
    database: Database, target: LocalTarget, calibration: Sequence[CalibrationNetwork], started: float, seed: int
) -> Profile:
    best: dict[str, float] = {}
    specs: dict[str, Any] = {}
    for row in _stored(database, target):
        best[row.hash] = min(best.get(row.hash, np.inf), row.latency_ms)
        specs[row.hash] = row.spec
    train = [key for key in best if not is_held_out(key)]
    test = [key for key in best if is_held_out(key)]
    if len(train) < MIN_KERNELS:
        raise MeasurementError(
            f"Only {len(train)} kernels could be measured on {target.name} undisturbed; {MIN_KERNELS} are needed.",
            "Give a longer --budget, and stop other programs on this machine.",
        )
    model = fit_kernel_model([kernel_of(specs[key]) for key in train], np.array([best[key] for key in train]), seed)
    held_out: dict[str, Any] = {"kernels": len(test)}
    if test:
        predicted, _ = model.predict([kernel_of(specs[key]) for key in test])
        held_out |= accuracy(predicted, np.maximum([best[key] for key in test], FLOOR_MS))
    sums = []
    for network in calibration:
        latency_ms, _ = model.predict(network.kernels)
        sums.append(NetworkSum.of(latency_ms, network.kernels))
    if len(sums) < MIN_NETWORKS:
        raise MeasurementError(
            f"Only {len(sums)} of {NETWORKS} networks could be measured on {target.name} undisturbed.",
            "Stop other programs on this machine and profile again.",
        )
    correction = fit_correction(sums, [network.visits_ms for network in calibration])
    residuals = np.array(correction.residuals)
    held_out["networks"] = {"networks": len(sums), **accuracy(1 + residuals, np.ones(len(residuals)))}
    predictor = Predictor(target.name, target.runtime_version, model, correction)
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, to_bytes(predictor), "predictor")
        row = add_predictor(
            session,
            target.row_id,
            runtime_version=target.runtime_version,
            artefact_sha256=sha256,
            held_out=held_out,
            kernels=len(train),
            networks=len(sums),
        )
        version = row.version
    seconds = time.monotonic() - started
    return Profile(target.name, f"{target.name}@{version}", len(train), len(sums), seconds, held_out)
