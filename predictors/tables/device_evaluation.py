"""How right a few measurements make the latencies of a device: every device of a table in turn is the new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import InvalidInput
from .device_prior import learn_prior
from .device_transfer import choose_networks, fit_transfer
from .evaluation import TableRow, figures, point_figures
from .from_devices import join_tables
from .imported import OnProgress
from .latency_rows import Fields, LatencyRow, keys_of, read_rows

MIN_DEVICES = 3
MEASURED = 10


def evaluate_devices(
    paths: Sequence[Path],
    fields: Fields,
    count: int = MEASURED,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """For each device `ours`, from `count` of its networks and all other devices, and `best_single`: the figures.

    The devices are the columns that `fields.latency` lists with commas, or the keys of the JSON object that it names.
    `best_single` is the known device that fits the measured networks best, scaled. Raises InvalidInput for fewer than
    three devices or too few networks.
    """
    names = fields.latency.split(",") if "," in fields.latency else keys_of(paths, fields.latency)
    if len(names) < MIN_DEVICES:
        raise InvalidInput(
            f"The tables have {len(names)} devices; {MIN_DEVICES} are needed.",
            "Name their columns with commas, or the JSON object that has them: --latency latency_ms.",
        )
    joined = join_tables([_rows(paths, replace(fields, latency=name)) for name in names], on_progress=on_progress)
    measured_there = np.isfinite(joined.latency_ms)
    usable_there = measured_there & (measured_there.sum(axis=0) > 1)
    for name, networks in zip(names, usable_there.sum(axis=1).tolist(), strict=True):
        if networks < 2 * count:
            raise InvalidInput(f"'{name}' has {networks} networks; {2 * count} are needed.", "Leave it out.")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for i, name in enumerate(names):
        on_progress("devices", i, len(names))
        known_ms, own_ms = np.delete(joined.latency_ms, i, axis=0), joined.latency_ms[i]
        there = np.flatnonzero(usable_there[i])
        known_ms, own_ms, features = known_ms[:, there], own_ms[there], joined.features[there]
        prior = learn_prior(known_ms, features, seed)
        measured = choose_networks(known_ms, count, features, prior=prior, seed=seed)
        transfer = fit_transfer(known_ms, measured, own_ms[measured], features, prior=prior, seed=seed)
        latency_ms, low, high = transfer.predict(known_ms, features)
        rest = np.setdiff1d(np.flatnonzero(np.isfinite(latency_ms)), measured)
        rows = [
            TableRow("", "", float(latency_ms[j]), (float(low[j]), float(high[j])), float(own_ms[j]), 0.0) for j in rest
        ]
        single = _best_single(known_ms, measured, own_ms[measured])
        usable = rest[np.isfinite(single[rest])]
        found[name] = {"ours": figures(rows), "best_single": point_figures(single[usable], own_ms[usable])}
    return found


def _rows(paths: Sequence[Path], fields: Fields) -> Iterator[LatencyRow]:
    for path in paths:
        yield from read_rows(path, fields)


def _best_single(known_ms: np.ndarray, measured: np.ndarray, measured_ms: np.ndarray) -> np.ndarray:
    """(networks,): the known device whose ratio to the measured latencies varies least, times that ratio."""
    ratios = np.log(measured_ms / known_ms[:, measured])
    best = int(np.argmin([np.nanstd(row) if np.isfinite(row).sum() > 1 else np.inf for row in ratios]))
    return np.asarray(known_ms[best] * np.exp(np.nanmedian(ratios[best])))
