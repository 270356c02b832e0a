"""Profiling: from nothing to a predictor of one target within a time budget."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from ...db.artefacts import save_artefact
from ...db.engine import Database
from ...db.measurements import kernel_measurements, model_measurements
from ...db.models import Predictor as StoredPredictor
from ...db.predictors import add_predictor, latest_predictor
from ...devices.measuring_device import MeasuringDevice
from ...errors import InvalidInput, MeasurementError, NotReady
from ...kernels.kernel import Kernel
from ...spaces.hyperspace import Hyperspace
from ...spaces.space import Space
from ..models.adaptation import adapt
from ..models.correction import PULL, PULL_ADAPTED
from ..models.kernel_model import KernelModel, fit_kernel_model
from ..models.physics import path
from ..models.predictor import Predictor, to_bytes
from ..models.report import CurvePoint
from ..models.sum_model import SumModel
from ..networks.files import PreparedModel
from ..networks.splitting import split_network
from ..stored.versions import PredictorVersion
from ..targets import DeviceTarget, open_device
from .fitting import (
    MIN_KERNELS,
    MIN_KERNELS_ADAPTED,
    CalibrationNetwork,
    Fit,
    fit_predictor,
    held_out_accuracy,
    held_out_kernels,
    is_held_out,
)
from .measuring import Measurer, kernel_of
from .pool import Candidate, OnProgress, Pool, drawn_order, make_pool, stored_candidates

SECONDS_PER_NETWORK, SECONDS_PER_NETWORK_ADAPTED = 20.0, 2.0
"""Where a known target is adapted, whole networks tell more than further kernels."""
MIN_NETWORKS_MEASURED, MAX_NETWORKS_MEASURED = 12, 44
"""Whole networks for the correction. Once kernels are known within a few percent, it is what limits the accuracy."""
ENOUGH_NETWORKS = 6
MAX_BROKEN = 3
"""Networks that cannot be measured here; with one more, it is not the networks."""
MORE_ROUNDS = 2
FIRST_PASS = 0.6
"""Share of the time for kernels that goes into new ones; the rest visits them again."""
BATCHES = 8
"""How often, in the first pass, what was learnt decides which kernels come next."""
BUSY_FACTOR, BUSY_EXTRA_S = 2.0, 120.0
"""On a busy machine most visits are disturbed: until there is enough, profiling may take this much in all."""
ENOUGH_KERNELS = 45
NEVER_QUIET = 3.0
"""Worth of visiting a kernel again of which all visits were disturbed; 1 where there was one undisturbed visit."""


@dataclass(frozen=True)
class Profile:
    """A stored predictor version: how many kernels and networks it rests on and how well it does on others.

    `failures`: why kernels could not be measured at all, and how many for each reason, the most frequent one first.
    """

    target: str
    predictor: str
    kernels: int
    networks: int
    seconds: float
    held_out: dict[str, Any]
    failures: Mapping[str, int]


def profile(
    database: Database,
    target: DeviceTarget,
    sources: Sequence[Hyperspace | Space],
    budget_s: float,
    *,
    published: bool = False,
    add: bool = False,
    base: PredictorVersion | None = None,
    max_kernels: int | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> Profile:
    """Measure kernels and networks for `budget_s` seconds, fit, store a new version of the target's predictor.

    Kernels and networks are those of random subnets of the sources and, if `published`, of published architectures.
    What an interrupted run measured is used; what the last finished one rested on only if `add`. With `base`, the
    predictor of a like target, at most `max_kernels` kernels tell how this target differs from it.
    Raises NotReady if there is nothing to `add` to, MeasurementError if the machine is too busy.
    """
    with database.session(read_only=True) as session:
        latest = latest_predictor(session, target.name)
    if add and latest is None:
        raise NotReady(
            f"{target.name} has no predictor to add to.", f"Profile it first: milliseek profile {target.name}"
        )
    if base is not None and isinstance(base.predictor.kernel_model, SumModel):
        raise InvalidInput(
            f"{base.name} was learned from whole networks: it knows no single kernels to start from.",
            "Start from a target that was profiled.",
        )
    since = measured_since(latest, add=add)
    run = _Run(database, target, _Plan(budget_s), since, np.random.default_rng(seed), on_progress)
    seconds_each = SECONDS_PER_NETWORK if base is None else SECONDS_PER_NETWORK_ADAPTED
    pool = make_pool(
        database,
        target,
        sources,
        published=published,
        budget_s=budget_s,
        networks=int(np.clip(budget_s / seconds_each, MIN_NETWORKS_MEASURED, MAX_NETWORKS_MEASURED)),
        rng=run.rng,
        on_progress=on_progress,
    )
    fit: Fit = partial(fit_kernel_model, seed=seed)
    # A narrow space has few kernels in all: half of them will do.
    pull, min_kernels = PULL, min(MIN_KERNELS, sum(not is_held_out(kernel) for kernel in pool.uses) // 2)
    if base is not None and isinstance(base.predictor.kernel_model, KernelModel):
        fit, pull, min_kernels = partial(adapt, base.predictor.kernel_model), PULL_ADAPTED, MIN_KERNELS_ADAPTED
    networks = run.measure(pool, fit, max_kernels)
    on_progress("fitting", 1, 1)
    predictor, held_out = fit_predictor(target, run.measured(), networks, pool.uses, run.curve, fit, pull, min_kernels)
    return _store(database, target, predictor, held_out, run, len(networks))


def measured_since(latest: StoredPredictor | None, *, add: bool) -> datetime | None:
    """The moment after which measurements count for the version after `latest`; None: all of the target's.

    An interrupted run left what was measured since the newest version. One that adds to that version takes what it
    rests on as well, but nothing older: it may have been superseded because the device had changed.
    """
    if latest is None:
        return None
    if not add:
        return latest.created_at
    begun = latest.held_out.get("measured_since")
    return datetime.fromisoformat(begun) if begun else None


class _Plan:
    """What a time budget means: a share is left for fitting, and a busy machine gets more time rather than nothing."""

    def __init__(self, budget_s: float) -> None:
        self.started = time.monotonic()
        self.deadline = self.started + 0.93 * budget_s
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


class _Run:
    """The measuring of one profile; what is measured is stored at once, so that an interrupted run loses nothing."""

    def __init__(
        self,
        database: Database,
        target: DeviceTarget,
        plan: _Plan,
        since: datetime | None,
        rng: np.random.Generator,
        on_progress: OnProgress,
    ) -> None:
        self.database, self.target, self.plan, self.since, self.rng = database, target, plan, since, rng
        self.curve: list[CurvePoint] = []
        self._on_progress = on_progress
        self._visits: dict[str, list[float]] = defaultdict(list)
        self._models: dict[str, PreparedModel] = {}
        self._broken: set[str] = set()
        self._accuracy = ""
        self.failures: Counter[str] = Counter()

    def measured(self) -> dict[Kernel, float]:
        """The lowest undisturbed visit of every kernel so far, in milliseconds."""
        return {kernel: min(visits) for kernel, visits in self._kernel_visits().items()}

    def measure(self, pool: Pool, fit: Fit, max_kernels: int | None) -> list[CalibrationNetwork]:
        """Visit networks and kernels by turns until the time is over.

        The visits of one kernel or network lie apart, so that no single slow minute spoils all of them.
        """
        with open_device(self.database, self.target) as device:
            measurer = Measurer(self.database, self.target, device)
            candidates = [*pool.candidates, *self._recalled(pool)]
            self._visit_networks(measurer, candidates, self.plan.at(0.2))
            self._visit_new_kernels(measurer, pool, fit, self.plan.at(FIRST_PASS), max_kernels)
            self._visit_networks(measurer, candidates, self.plan.at(0.4))
            self._visit_again(measurer, pool, self.plan.at(0.75))
            for _ in range(MORE_ROUNDS):
                self._visit_networks(measurer, candidates, self.plan.deadline)
            self._visit_again(measurer, pool, self.plan.deadline)
            self.failures = Counter(measurer.failures.values())
            return [
                CalibrationNetwork(c.name, c.family, c.kernels or self._split(device, c), tuple(visits))
                for c in candidates
                if (visits := self._visits[c.name])
            ]

    def _recalled(self, pool: Pool) -> list[Candidate]:
        """Take up what an interrupted run, or the one that this one adds to, measured; networks not in the pool."""
        with self.database.session(read_only=True) as session:
            rows = model_measurements(
                session, self.target.row_id, runtime_version=self.target.runtime_version, since=self.since
            )
        stored = stored_candidates(self.database, self.target, rows)
        for row in rows:
            if row.name in stored:
                self._visits[row.name].append(row.latency_ms)
        known = {candidate.name for candidate in pool.candidates}
        return [candidate for name, candidate in stored.items() if name not in known]

    def _model(self, candidate: Candidate) -> PreparedModel:
        if candidate.name not in self._models:
            self._models[candidate.name] = candidate.load()
        return self._models[candidate.name]

    def _split(self, device: MeasuringDevice, candidate: Candidate) -> tuple[Kernel, ...]:
        return tuple(use.kernel for use in split_network(device, self._model(candidate).data))

    def _visit_networks(self, measurer: Measurer, candidates: Sequence[Candidate], until: float) -> None:
        # Fewest visits first: a pass that ran out of time is taken up where it ended.
        for candidate in sorted(candidates, key=lambda each: len(self._visits[each.name])):
            if candidate.name in self._broken:
                continue
            if self.plan.spent(until, enough=sum(map(bool, self._visits.values())) >= ENOUGH_NETWORKS):
                return
            self._show("measuring networks")
            try:
                visit = measurer.measure_network(self._model(candidate), candidate.name)
            except MeasurementError:
                # There are other networks; elsewhere it may be the machine, which was busy all the time, or lost.
                if self.target.kind == "local":
                    self._broken.add(candidate.name)
                    if len(self._broken) > MAX_BROKEN:
                        raise
                continue
            if not visit.disturbed and visit.latency_ms is not None:
                self._visits[candidate.name].append(visit.latency_ms)

    def _visit_new_kernels(
        self, measurer: Measurer, pool: Pool, fit: Fit, until: float, max_kernels: int | None
    ) -> None:
        known = {kernel.hash for kernel in self._kernel_visits()}
        left = [kernel for kernel in pool.in_order(self.rng) if kernel.hash not in known]
        if max_kernels is not None:
            left = left[: max(0, max_kernels - len(known))]
        started = time.monotonic()
        for batch in range(1, BATCHES + 1):
            before = set(measurer.visited)
            end = started + (until - started) * batch / BATCHES
            self._visit_kernels(measurer, left, end)
            left = [kernel for kernel in left if kernel.hash not in measurer.visited]
            if not left:
                return
            if set(measurer.visited) == before:
                continue  # the first batch, which goes on until there is enough, took the time of this one as well
            measured = self.measured()
            train = {kernel: ms for kernel, ms in measured.items() if not is_held_out(kernel)}
            if len(train) >= MIN_KERNELS:
                model = fit(list(train), np.array(list(train.values())))
                self._learn(model, measured, len(train))
                left = [left[i] for i in drawn_order(_worth(model, left, pool), self.rng)]

    def _learn(self, model: KernelModel, measured: Mapping[Kernel, float], trained_on: int) -> None:
        tested = held_out_kernels(model, measured)
        if tested:
            figures = held_out_accuracy(tested)
            self.curve.append(CurvePoint(self.plan.elapsed, trained_on, figures["within_5"], figures["within_10"]))
            self._accuracy = f": {100 * figures['within_10']:.0f} % within 10 %"

    def _visit_again(self, measurer: Measurer, pool: Pool, until: float) -> None:
        """Further visits: of kernels with fewest undisturbed visits first, of others where their visits disagree."""
        visits = self._kernel_visits()
        never_quiet = measurer.visited - {kernel.hash for kernel in visits}
        disturbed = [kernel for kernel in pool.uses if kernel.hash in never_quiet]
        kernels = [kernel for kernel in (*disturbed, *visits) if kernel.hash not in measurer.failures]
        doubt = np.array([_doubt(visits.get(kernel, ())) for kernel in kernels])
        self._visit_kernels(measurer, [kernels[i] for i in drawn_order(doubt, self.rng)], until)

    def _visit_kernels(self, measurer: Measurer, kernels: Sequence[Kernel], until: float) -> None:
        known = {kernel.hash for kernel in self._kernel_visits()}
        measurer.measure_kernels(
            kernels,
            lambda: not self.plan.spent(until, enough=len(known | measurer.quiet) >= ENOUGH_KERNELS),
            lambda _: self._show("measuring kernels" + self._accuracy),
        )

    def _kernel_visits(self) -> dict[Kernel, list[float]]:
        """Undisturbed visits of every kernel, in milliseconds."""
        with self.database.session(read_only=True) as session:
            rows = kernel_measurements(
                session, self.target.row_id, runtime_version=self.target.runtime_version, since=self.since
            )
        specs = {row.hash: row.spec for row in rows}
        visits: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            visits[row.hash].append(row.latency_ms)
        return {kernel_of(spec): visits[key] for key, spec in specs.items()}

    def _show(self, phase: str) -> None:
        self._on_progress(phase, self.plan.elapsed, self.plan.deadline - self.plan.started)


def _doubt(visits_ms: Sequence[float]) -> float:
    """How much another visit of a kernel is worth: most before the first undisturbed one, much before the second.

    After that, as much as the lowest two differ.
    """
    if not visits_ms:
        return NEVER_QUIET
    if len(visits_ms) < 2:
        return 1.0
    lowest, second = sorted(visits_ms)[:2]
    return min(1.0, second / max(lowest, 1e-9) - 1) / len(visits_ms)


def _worth(model: KernelModel, kernels: Sequence[Kernel], pool: Pool) -> np.ndarray:
    """(kernels,): what measuring each is worth: disagreement of the ensemble x milliseconds x its weight in the pool.

    The held-out ones, from which nothing is learnt, are worth the mean: their share stays as it is. So are those of
    paths without data, whose model cannot disagree with itself.
    """
    found = model.predict(kernels)
    weights = np.array([pool.weights[kernel] for kernel in kernels])
    # The root keeps a few long kernels from taking all the time: a visit of a long kernel costs more as well.
    worth = found.spread * np.sqrt(np.maximum(found.latency_ms, 1e-3) * weights)
    plain = np.array([is_held_out(kernel) or path(kernel) not in model.paths for kernel in kernels])
    worth[plain] = worth[~plain].mean() if (~plain).any() else 1.0
    return np.asarray(worth)


def _store(
    database: Database, target: DeviceTarget, predictor: Predictor, held_out: dict[str, Any], run: _Run, networks: int
) -> Profile:
    trained_on = sum(not is_held_out(kernel) for kernel in run.measured())
    held_out["measured_since"] = run.since.isoformat() if run.since else None
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, to_bytes(predictor), "predictor")
        row = add_predictor(
            session,
            target.row_id,
            runtime_version=target.runtime_version,
            artefact_sha256=sha256,
            held_out=held_out,
            kernels=trained_on,
            networks=networks,
        )
        name = f"{target.name}@{row.version}"
    return Profile(
        target.name, name, trained_on, networks, run.plan.elapsed, held_out, dict(run.failures.most_common())
    )
