"""A few measurements on a new device beside tables of known ones: which networks to measure, and what they tell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...db.engine import Database
from ...errors import InvalidInput
from ...kernels.kernel import Kernel
from ..models.accuracy import accuracy
from ..models.sum_terms import kernel_terms
from ..networks.named import named_network
from .device_prior import learn_prior
from .device_transfer import choose_networks, fit_transfer
from .imported import OnProgress, imported_target, stored_rows, stored_table
from .latency_rows import LatencyRow
from .sums import SumFit, TimedNetwork, fit_sums

MAX_NETWORKS = 1500
"""Networks of the known tables that are taken, at random; those that were measured on the new device always."""
MIN_MEASURED = 3


@dataclass(frozen=True)
class KnownDevices:
    """Networks of several known tables: `latency_ms` (devices, networks), NaN where a table has not got one."""

    networks: tuple[TimedNetwork, ...]
    rows: tuple[LatencyRow, ...]
    latency_ms: np.ndarray
    features: np.ndarray

    def position(self) -> dict[int, int]:
        """Number of each network by its digest."""
        return {row.digest: i for i, row in enumerate(self.rows)}


def known_devices(
    database: Database,
    names: Sequence[str],
    precision: str,
    wanted: Sequence[LatencyRow] = (),
    on_progress: OnProgress = lambda *_: None,
) -> KnownDevices:
    """The tables of imported devices, with the networks that are `wanted`.

    Raises NotFound for a device without an imported table of that precision, InvalidInput for fewer than two.
    """
    if len(set(names)) < 2:
        raise InvalidInput("Two known devices are needed at least.", "Name them: --from-devices A,B,C.")
    tables = []
    for name in names:
        rows = stored_rows(database, stored_table(database, imported_target(name, precision)))
        tables.append(LatencyRow(**content) for content in rows)
    return join_tables(tables, wanted, on_progress=on_progress)


def join_tables(
    tables: Sequence[Iterable[LatencyRow]],
    wanted: Sequence[LatencyRow] = (),
    *,
    on_progress: OnProgress = lambda *_: None,
) -> KnownDevices:
    """Tables of several devices as one; of more than MAX_NETWORKS those that are `wanted`, or that most tables have."""
    found: dict[int, LatencyRow] = {}
    latencies: dict[int, dict[int, float]] = defaultdict(dict)
    for device, table in enumerate(tables):
        for row in table:
            found.setdefault(row.digest, row)
            latencies[row.digest][device] = row.latency_ms
    asked = {row.digest for row in wanted}
    # Among those that equally many tables have, chance decides, the same way every time.
    order = np.random.default_rng(0).permutation(len(found))
    digests = list(found)
    ranked = sorted(order.tolist(), key=lambda i: (digests[i] not in asked, -len(latencies[digests[i]])))
    chosen = [digests[i] for i in ranked[: max(MAX_NETWORKS, len(asked))]]
    rows = [found[digest] for digest in chosen]
    networks = []
    for i, row in enumerate(rows):
        on_progress("networks", i, len(rows))
        uses = named_network(row.network, Path(row.place).parent)
        networks.append(TimedNetwork.of(row.name, row.family, uses, row.latency_ms))
    latency_ms = np.full((len(tables), len(rows)), np.nan)
    for i, digest in enumerate(chosen):
        for device, value in latencies[digest].items():
            latency_ms[device, i] = value
    return KnownDevices(tuple(networks), tuple(rows), latency_ms, _features(networks))


def telling_networks(known: KnownDevices, count: int, seed: int = 0) -> list[LatencyRow]:
    """The networks whose latencies on a new device tell most about all the others, the most telling first."""
    if count > len(known.rows):
        raise InvalidInput(
            f"The known devices have {len(known.rows)} networks in common, not {count}.", "Ask for fewer."
        )
    chosen = choose_networks(known.latency_ms, count, known.features, seed=seed)
    return [known.rows[i] for i in chosen.tolist()]


def fit_from_devices(
    known: KnownDevices, measured: Sequence[LatencyRow], seed: int = 0, on_progress: OnProgress = lambda *_: None
) -> tuple[SumFit, list[TimedNetwork], dict[str, Any]]:
    """Costs of kernels on a new device, the networks learned from, and how right measured ones are left out in turn.

    What the known devices and the measurements let expect of every known network is what the costs are learned from.
    Raises InvalidInput if too few of the measured networks are known.
    """
    position = known.position()
    own = {position[row.digest]: row.latency_ms for row in measured if row.digest in position}
    if len(own) < MIN_MEASURED:
        raise InvalidInput(
            f"Only {len(own)} of {len(measured)} networks were measured on the known devices as well.",
            f"Measure {MIN_MEASURED} or more of what `milliseek devices choose` lists.",
        )
    on_progress("learning from devices", 0, 1)
    index, latency_ms = np.array(list(own)), np.array(list(own.values()))
    prior = learn_prior(known.latency_ms, known.features, seed)

    def predicted(used: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        transfer = fit_transfer(known.latency_ms, index[used], latency_ms[used], known.features, prior=prior, seed=seed)
        return transfer.predict(known.latency_ms, known.features)

    everything = np.arange(len(index))
    expected, low, high = predicted(everything)
    held_out: dict[str, Any] = {}
    if len(index) > MIN_MEASURED:
        left_out = np.array([predicted(np.delete(everything, i))[0][index[i]] for i in everything])
        held_out = accuracy(left_out, latency_ms)
    expected[index] = latency_ms
    usable = np.isfinite(expected)
    networks = [
        replace(network, latency_ms=float(ms))
        for network, ms, there in zip(known.networks, expected, usable, strict=True)
        if there
    ]
    fit = fit_sums(networks, on_progress=on_progress)
    # Errors of the expectation and of the sums are independent: the interval has to hold both.
    doubt = float(np.median(np.log(high[usable] / low[usable]) / 2))
    correction = fit.correction
    half = correction.half_width(correction.usual_spread)
    widened = replace(correction, width=correction.width * math.hypot(1.0, doubt / max(half, 1e-9)))
    return replace(fit, correction=widened), networks, held_out


def _features(networks: Sequence[TimedNetwork]) -> np.ndarray:
    """(networks, paths): how many kernels of each path a network has."""
    positions: dict[str, int] = {}
    paths: dict[Kernel, str | None] = {}
    counts: list[Mapping[str, float]] = []
    for network in networks:
        found: dict[str, float] = defaultdict(float)
        for kernel, times in next(iter(network.kernels.values())).items():
            if kernel not in paths:
                terms = kernel_terms(kernel)
                paths[kernel] = terms.path if terms is not None else None
            if (path := paths[kernel]) is not None:
                found[path] += times
                positions.setdefault(path, len(positions))
        counts.append(found)
    return np.array([[count.get(path, 0.0) for path in positions] for count in counts])
