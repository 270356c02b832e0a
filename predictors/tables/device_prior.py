"""What known devices teach about the next one: a Gaussian process over networks of which every device is a draw.

The log latency of a new device is an offset, the mean of the known devices raised to an exponent near 1, a linear
combination of how each known device differs from that mean, a linear function of the networks' features, a smooth
function of all of these, and noise. Their sizes are learned by taking each known device for the new one and the others
for the known (multi-task Gaussian process: Bonilla, Chai, Williams, "Multi-task Gaussian Process Prediction", 2007;
marginal likelihood: Rasmussen, Williams, "Gaussian Processes for Machine Learning", section 5.4.1). Two sizes belong to
a device and are kept as distributions on grids: its noise, and how strange it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from ...errors import InvalidInput

NEAR_ZERO = 0.05
"""A latency under this share of what its device and its network let expect is a failed measurement."""
NOISE = np.geomspace(0.003, 0.4, 9)
"""Standard deviation of the log of repeated latencies."""
STRANGENESS = np.array([0.5, 1.0, 2.0, 4.0])
"""How much more a device differs from the known ones than these do from each other."""
START = np.log([0.1, 1.0, 0.05, 0.05, 1.0])
"""Standard deviations of exponent, device weights, linear and smooth part, and the length scale of the smooth part."""
SPREAD = np.array([1.0, 0.5, 1.5, 1.5, 0.5])
"""Standard deviations of the log-normal priors of these, whose medians are START."""
LESSON = 64
"""Networks of a lesson: the joint likelihood of so many tells about every smaller number too."""
LESSONS = 18
"""Pretended new devices to learn from; more known devices than this are sampled."""
DOUBT = 0.2
"""Share of the grids' weights that is even: the next device may be like none of the known."""
MIN_NETWORKS = 3


@dataclass(frozen=True, eq=False)
class Rows:
    """Networks as the process sees them.

    `values` (networks, devices) are centred log latencies without gaps, `features` (networks, f) are standardised;
    `scale` is the spread of the networks and that of the devices about them, in logs.
    """

    values: np.ndarray
    features: np.ndarray
    scale: tuple[float, float]

    def __getitem__(self, index: np.ndarray) -> Rows:
        return Rows(self.values[index], self.features[index], self.scale)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> np.ndarray:
        """Mean over the known devices (networks,): what is expected of a new one, but for its offset."""
        return np.asarray(self.values.mean(1))

    def without(self, device: int) -> Rows:
        """The same networks when a known device is taken away."""
        return Rows(np.delete(self.values, device, axis=1), self.features, self.scale)

    def basis(self, hyper: np.ndarray) -> np.ndarray:
        """Functions (networks, 2 + devices + f) of which the linear part is a sum with standard normal weights."""
        exponent, device, linear = np.exp(hyper[:3])
        mean = self.mean[:, None]
        others = np.sqrt(max(1, self.values.shape[1] - 1))
        width = np.sqrt(max(1, self.features.shape[1]))
        deviations = self.values - mean
        return np.hstack(
            [np.ones_like(mean), exponent * mean, device / others * deviations, linear / width * self.features]
        )

    def position(self, hyper: np.ndarray) -> np.ndarray:
        """Where the networks lie for the smooth part (networks, 1 + devices + f), in length scales."""
        mean = self.mean[:, None]
        across, along = self.scale
        parts = [mean / across, (self.values - mean) / (along * np.sqrt(self.values.shape[1]))]
        parts.append(self.features / np.sqrt(max(1, self.features.shape[1])))
        return np.asarray(np.hstack(parts) / np.exp(hyper[4]))


def covariance(left: Rows, right: Rows, hyper: np.ndarray) -> np.ndarray:
    """Prior covariance (left, right) of a new device's log latency about `mean`, noise apart, at strangeness 1."""
    distance = cdist(left.position(hyper), right.position(hyper), "sqeuclidean")
    return np.asarray(left.basis(hyper) @ right.basis(hyper).T + np.exp(2 * hyper[3] - distance / 2))


def variance(rows: Rows, hyper: np.ndarray) -> np.ndarray:
    """Diagonal (networks,) of `covariance(rows, rows, hyper)`."""
    return np.asarray((rows.basis(hyper) ** 2).sum(1) + np.exp(2 * hyper[3]))


@dataclass(frozen=True, eq=False)
class DevicePrior:
    """What is known of a device before it is measured.

    `hyper` (5,) as START; `weights` (strangeness, noise) of the grids; `offset` (devices,) of the known log latencies,
    `centre` (devices,) and `scatter` (devices, devices) of what remains, by which gaps are filled; `feature_centre`
    and `feature_scale` (f,) of the features.
    """

    hyper: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    centre: np.ndarray
    scatter: np.ndarray
    feature_centre: np.ndarray
    feature_scale: np.ndarray
    scale: tuple[float, float]

    def rows(self, known_ms: np.ndarray, features: np.ndarray | None = None) -> Rows:
        """Networks with latencies (devices, networks) in ms on the known devices, NaN where missing, and features.

        A network without any latency, and one with a feature that is no number, gets NaN values.
        """
        if len(known_ms) != len(self.offset):
            raise InvalidInput(f"Latencies of {len(known_ms)} known devices, not of {len(self.offset)}.")
        values = _fill(_plausible(_logs(known_ms) - self.offset[:, None]), self.centre, self.scatter)
        standard = (_features(known_ms, features) - self.feature_centre) / self.feature_scale
        return Rows(values.T, standard, self.scale)


def learn_prior(known_ms: np.ndarray, features: np.ndarray | None = None, seed: int = 0) -> DevicePrior:
    """Learn from latencies (devices, networks) in ms of the same networks on known devices, NaN where missing.

    Features (networks, f) are anything that a device may take time for: counts of operators, MACs, bytes. Near-zero
    latencies are left out. With one known device the sizes are assumed, not learned. Raises InvalidInput where a
    device has fewer than three latencies, or shapes differ.
    """
    logs = _logs(known_ms)
    plain = _features(known_ms, features)
    if not len(logs) or (np.isfinite(logs).sum(1) < MIN_NETWORKS).any():
        raise InvalidInput(f"A known device has fewer than {MIN_NETWORKS} latencies.", "Leave it out or import more.")
    offset = _offsets(logs)
    centred = _plausible(logs - offset[:, None])
    centre, scatter = _moments(centred)
    values = _fill(centred, centre, scatter).T
    known = np.isfinite(values).all(1)
    mean = values[known].mean(1)
    across, along = float(mean.std()), float((values[known] - mean[:, None]).std())
    deviation = plain.std(0)
    feature_scale = np.where(deviation > 0, deviation, 1.0)
    rows = Rows(values, (plain - plain.mean(0)) / feature_scale, (across or 1.0, along or 1.0))
    hyper, weights = _sizes(rows, np.isfinite(centred), np.random.default_rng(seed))
    return DevicePrior(hyper, weights, offset, centre, scatter, plain.mean(0), feature_scale, rows.scale)


def _sizes(rows: Rows, observed: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The sizes that explain best each known device (as the new one) by the others, and what grid points they took."""
    even = np.full((len(STRANGENESS), len(NOISE)), 1 / (len(STRANGENESS) * len(NOISE)))
    devices = len(observed)
    if devices == 1:
        return START, even
    lessons = []
    for device in np.resize(rng.permutation(devices), LESSONS):
        index = np.flatnonzero(observed[device])
        index = rng.choice(index, min(LESSON, len(index)), replace=False)
        others = rows[index].without(int(device))
        surprise = rows.values[index, device] - others.mean
        if np.isfinite(surprise).all():
            lessons.append((others, surprise - np.median(surprise)))

    def loss(hyper: np.ndarray) -> float:
        told = sum(logsumexp(_evidence(covariance(known, known, hyper), surprise)) for known, surprise in lessons)
        return float((((hyper - START) / SPREAD) ** 2).sum() / 2 - told)

    hyper = minimize(loss, START, method="L-BFGS-B", options={"maxiter": 25}).x
    taken = [_evidence(covariance(known, known, hyper), surprise) for known, surprise in lessons]
    return hyper, (1 - DOUBT) * np.mean([np.exp(t - logsumexp(t)) for t in taken], axis=0) + DOUBT * even


def _evidence(matrix: np.ndarray, surprise: np.ndarray) -> np.ndarray:
    """Log likelihood (strangeness, noise), up to a constant; one decomposition serves the whole grid."""
    values, vectors = np.linalg.eigh(matrix)
    squares = (vectors.T @ surprise) ** 2
    total = STRANGENESS[:, None, None] ** 2 * np.maximum(values, 0) + NOISE[:, None] ** 2
    return np.asarray(-(squares / total + np.log(total)).sum(-1) / 2)


def _logs(latency_ms: np.ndarray) -> np.ndarray:
    latency_ms = np.asarray(latency_ms, float)
    valid = np.isfinite(latency_ms) & (latency_ms > 0)
    return np.log(np.where(valid, latency_ms, 1.0), where=valid, out=np.full(latency_ms.shape, np.nan))


def _features(known_ms: np.ndarray, features: np.ndarray | None) -> np.ndarray:
    networks = np.shape(known_ms)[1]
    plain = np.zeros((networks, 0)) if features is None else np.asarray(features, float)
    if plain.shape[:1] != (networks,):
        raise InvalidInput(f"Features of {len(plain)} networks, latencies of {networks}.")
    return plain


def _row_medians(centred: np.ndarray) -> np.ndarray:
    medians = np.full(centred.shape[1], np.nan)
    some = np.isfinite(centred).any(0)
    medians[some] = np.nanmedian(centred[:, some], axis=0)
    return medians


def _offsets(logs: np.ndarray) -> np.ndarray:
    """By median polish, because the devices may not have measured the same networks."""
    offset = np.nanmedian(logs, axis=1)
    for _ in range(3):
        offset = offset + np.nanmedian(logs - offset[:, None] - _row_medians(logs - offset[:, None]), axis=1)
    return np.asarray(offset)


def _plausible(centred: np.ndarray) -> np.ndarray:
    """Gaps where a device (devices, networks) is near zero beside the others."""
    return np.where(centred < _row_medians(centred) + np.log(NEAR_ZERO), np.nan, centred)


def _fill(centred: np.ndarray, centre: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """Gaps get their expectation given the rest of their network; a network without values keeps its gaps."""
    filled = centred.copy()
    gaps = np.isnan(centred)
    for pattern in np.unique(gaps[:, gaps.any(0) & ~gaps.all(0)].T, axis=0):
        index = np.flatnonzero((gaps == pattern[:, None]).all(0))
        weights = np.linalg.solve(scatter[np.ix_(~pattern, ~pattern)], scatter[np.ix_(~pattern, pattern)]).T
        known = centred[np.ix_(~pattern, index)] - centre[~pattern, None]
        filled[np.ix_(pattern, index)] = centre[pattern, None] + weights @ known
    return filled


def _moments(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance over the networks, with gaps filled by what the last round made of them."""
    some = centred[:, np.isfinite(centred).any(0)]
    filled = np.where(np.isnan(some), _row_medians(some), some)
    for _ in range(5):
        centre = filled.mean(1)
        scatter = np.atleast_2d(np.cov(filled)) + 1e-4 * np.eye(len(some))
        filled = _fill(some, centre, scatter)
    return centre, scatter
