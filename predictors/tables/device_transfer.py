"""The latency of many networks on a new device from a few measurements there and many on known devices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import InvalidInput
from .device_prior import (
    MIN_NETWORKS,
    NEAR_ZERO,
    NOISE,
    STRANGENESS,
    DevicePrior,
    Rows,
    covariance,
    learn_prior,
    variance,
)

CANDIDATES = 1000
"""Networks that choose_networks weighs up; more are sampled."""
OUTLIER = 0.02
"""Share of measurements that went wrong, and by OUTLIER_LOG (standard deviation of logs) when they did."""
OUTLIER_LOG = 1.0
OUTLIER_COST = math.log(OUTLIER / (1 - OUTLIER))
MAX_OUTLIERS = 0.25
NEGLIGIBLE = 0.01
"""Weight, in shares of the largest, under which a hypothesis about the device is dropped."""
INTERVAL = 1.645
"""Standard deviations of a 90 % interval."""
BLOCK = 4096
"""Networks predicted at once, which bounds memory."""


def choose_networks(
    known_ms: np.ndarray,
    count: int = 10,
    features: np.ndarray | None = None,
    *,
    among: np.ndarray | None = None,
    prior: DevicePrior | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Indices (count,) of the networks to measure on a new device, the most telling first.

    known_ms (devices, networks) in ms, NaN where missing, and features (networks, f) as for `learn_prior`, which is
    called unless its result is given. Greedy A-optimal design: each choice takes most from the summed variance that the
    others leave (Krause, Singh, Guestrin, "Near-Optimal Sensor Placements in Gaussian Processes", 2008, discuss the
    alternatives). `among` are the indices that can be measured; by default all networks known on every device. Of more
    than CANDIDATES a sample is weighed up. The same seed gives the same choice. Raises InvalidInput where fewer than
    `count` are left.
    """
    prior = prior or learn_prior(known_ms, features, seed)
    rows = prior.rows(known_ms, features)
    rng = np.random.default_rng(seed)
    usable = np.isfinite(np.hstack([rows.values, rows.features])).all(1)
    complete = usable & (np.nan_to_num(known_ms) > 0).all(0)
    if among is None:
        candidates = np.flatnonzero(complete if complete.sum() >= count else usable)
    else:
        candidates = np.unique(np.asarray(among)[usable[among]])
    if not 0 < count <= len(candidates):
        raise InvalidInput(f"Cannot choose {count} of {len(candidates)} networks.", "Ask for fewer.")
    candidates = _sample(candidates, max(count, CANDIDATES), rng)
    everything = _sample(np.flatnonzero(usable), CANDIDATES, rng)
    left = covariance(rows[candidates], rows[np.concatenate([candidates, everything])], prior.hyper)
    noise = float(np.exp(prior.weights.sum(0) @ np.log(NOISE))) ** 2
    chosen: list[int] = []
    for _ in range(count):
        own = np.maximum(np.einsum("ii->i", left[:, : len(candidates)]), 0.0) + noise
        gain = (left[:, len(candidates) :] ** 2).sum(1) / own
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        left = left - np.outer(left[:, best], left[best]) / own[best]
    return candidates[chosen]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One pair of strangeness and noise, with its share of the belief and the inverse (n, n) of the covariance."""

    share: float
    strangeness: float
    noise: float
    precision: np.ndarray


@dataclass(frozen=True, eq=False)
class Transfer:
    """A predictor of one new device.

    `used` (n,) are the measured networks it rests on, `trust` (n,) is the belief that each was measured right;
    `surprise` (n,) is what their logs exceed expectation by, `offset` apart; `resolution_ms` is 0 where values do not
    look rounded.
    """

    prior: DevicePrior
    rows: Rows
    used: np.ndarray
    surprise: np.ndarray
    offset: float
    hypotheses: tuple[Hypothesis, ...]
    trust: np.ndarray
    resolution_ms: float

    def predict(
        self, known_ms: np.ndarray, features: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latency and the bounds of a 90 % interval for a measurement of it, each (networks,) in ms.

        known_ms (devices, networks) and features (networks, f): as for the fit, of the same devices in the same order,
        of any networks. NaN for a network that no known device has measured.
        """
        rows = self.prior.rows(known_ms, features)
        blocks = [self._logs(rows[np.arange(i, min(i + BLOCK, len(rows)))]) for i in range(0, len(rows), BLOCK)]
        mean, spread = np.hstack(blocks) if blocks else np.zeros((2, 0))
        latency_ms = np.exp(mean)
        half = INTERVAL * np.sqrt(spread + _rounding(latency_ms, self.resolution_ms))
        return latency_ms, np.exp(mean - half), np.exp(mean + half)

    def _logs(self, rows: Rows) -> np.ndarray:
        """Mean and variance (2, networks) of the log latency: moments of the mixture of hypotheses."""
        known = np.isfinite(np.hstack([rows.values, rows.features])).all(1)
        found = np.full((2, len(rows)), np.nan)
        cross = covariance(rows[known], self.rows, self.prior.hyper)
        alone = variance(rows[known], self.prior.hyper)
        first, second = np.zeros(len(cross)), np.zeros(len(cross))
        for guess in self.hypotheses:
            gain = guess.strangeness**2 * cross @ guess.precision
            mean = gain @ self.surprise
            left = guess.strangeness**2 * (alone - (gain * cross).sum(1))
            first += guess.share * mean
            second += guess.share * (np.maximum(left, 0) + guess.noise**2 + mean**2)
        found[:, known] = rows[known].mean + self.offset + first, np.maximum(second - first**2, 0)
        return found


def fit_transfer(
    known_ms: np.ndarray,
    measured: np.ndarray,
    measured_ms: np.ndarray,
    features: np.ndarray | None = None,
    *,
    prior: DevicePrior | None = None,
    seed: int = 0,
) -> Transfer:
    """Fit a new device on which the networks `measured` (n,), indices of known_ms, took `measured_ms` (n,).

    known_ms (devices, networks) in ms and features (networks, f) as for `learn_prior`, which is called unless its
    result is given. Exact inference in its Gaussian process for each noise and strangeness, weighted by evidence
    (Rasmussen, Williams, sections 2.2 and 5.2). A measurement is an outlier where two kinds of noise explain it better
    than one. Values that are all whole, or have one or two decimals, count as rounded. Near-zero ones are left out.
    Raises InvalidInput where fewer than three usable measurements are left.
    """
    prior = prior or learn_prior(known_ms, features, seed)
    measured, measured_ms = np.asarray(measured), np.asarray(measured_ms, float)
    rows = prior.rows(np.asarray(known_ms)[:, measured], None if features is None else np.asarray(features)[measured])
    usable = np.isfinite(np.hstack([rows.values, rows.features])).all(1) & np.isfinite(measured_ms) & (measured_ms > 0)
    surprise = np.log(np.where(usable, measured_ms, 1.0)) - rows.mean
    if usable.any():
        usable &= ~(surprise < np.median(surprise[usable]) + math.log(NEAR_ZERO))
    if usable.sum() < MIN_NETWORKS:
        raise InvalidInput(
            f"{usable.sum()} usable measurements on the new device.",
            f"Measure at least {MIN_NETWORKS} networks that a known device has measured too.",
        )
    rows, surprise = rows[usable], surprise[usable]
    offset = float(np.median(surprise))
    resolution_ms = resolution(measured_ms[usable])
    rounding = _rounding(measured_ms[usable], resolution_ms)
    matrix = covariance(rows, rows, prior.hyper)
    guesses, evidences, wrongs = [], [], []
    for i, strangeness in enumerate(STRANGENESS):
        for j, noise in enumerate(NOISE):
            evidence, precision, wrong = _infer(strangeness**2 * matrix, noise**2 + rounding, surprise - offset)
            evidences.append(evidence + math.log(prior.weights[i, j]))
            wrongs.append(wrong)
            guesses.append(Hypothesis(0.0, float(strangeness), float(noise), precision))
    weights = np.exp(np.array(evidences) - max(evidences))
    weights[weights < NEGLIGIBLE] = 0
    weights /= weights.sum()
    kept = tuple(
        Hypothesis(float(weight), guess.strangeness, guess.noise, guess.precision)
        for weight, guess in zip(weights, guesses, strict=True)
        if weight
    )
    trust = 1 - weights @ np.array(wrongs, float)
    return Transfer(prior, rows, measured[usable], surprise - offset, offset, kept, trust, resolution_ms)


def resolution(latency_ms: np.ndarray) -> float:
    """What all values (n,) are multiples of: 1, 0.1 or 0.01 ms, else 0."""
    for step in (1.0, 0.1, 0.01):
        if (np.abs(latency_ms / step - np.rint(latency_ms / step)) < 1e-3).all():
            return step
    return 0.0


def _rounding(latency_ms: np.ndarray, resolution_ms: float) -> np.ndarray:
    """Variance of the log of a latency that is rounded to multiples of the resolution."""
    return np.asarray((resolution_ms / latency_ms) ** 2 / 12)


def _infer(matrix: np.ndarray, noise: np.ndarray, surprise: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Evidence, precision (n, n) and the outliers (n,), which are found one by one, the most obvious first.

    The evidence is a product of the leave-one-out likelihood of one measurement and what does not depend on its noise,
    so calling it an outlier changes the former alone (Rasmussen, Williams, equation 5.12).
    """
    wrong = np.zeros(len(surprise), bool)
    while True:
        total = matrix + np.diag(noise + OUTLIER_LOG**2 * wrong)
        precision = np.linalg.inv(total)
        weighted = precision @ surprise
        left_out = 1 / np.diag(precision)
        squares = (weighted * left_out) ** 2
        gain = (squares / left_out - squares / (left_out + OUTLIER_LOG**2)) / 2
        gain -= np.log1p(OUTLIER_LOG**2 / left_out) / 2
        gain = np.where(wrong, -np.inf, gain + OUTLIER_COST)
        if gain.max() <= 0 or wrong.sum() >= int(MAX_OUTLIERS * len(wrong)):
            evidence = -(surprise @ weighted + np.linalg.slogdet(total)[1]) / 2 + OUTLIER_COST * wrong.sum()
            return float(evidence), precision, wrong
        wrong[gain.argmax()] = True


def _sample(index: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return index if len(index) <= count else np.sort(rng.choice(index, count, replace=False))
