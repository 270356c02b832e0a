"""Hypervolume: how much of the space of objectives is dominated, after every evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def gain(point: np.ndarray, front: np.ndarray, reference: np.ndarray) -> float:
    """Volume that `point` (objectives,) dominates and `front` (points, objectives) does not; less is better.

    Of what lies below `reference` (objectives,) in every objective. The volume that both dominate is the hypervolume of
    the front's points raised to `point` wherever they are below it (While, Bradstreet and Barone, 2012).
    """
    if (point >= reference).any():
        return 0.0
    return float(np.prod(reference - point)) - hypervolume(np.maximum(front, point), reference)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume that points (points, objectives) dominate below `reference` (objectives,); less is better."""
    front = nondominated(points[(points < reference).all(1)])
    if front.shape[1] == 2:  # the common case: a staircase
        front = front[np.argsort(front[:, 0])]
        heights = np.append(reference[1], front[:-1, 1]) - front[:, 1]
        return float((reference[0] - front[:, 0]) @ heights)
    return sum(gain(point, front[:i], reference) for i, point in enumerate(front))


def growth(points: Sequence[Sequence[float]], reference: Sequence[float]) -> np.ndarray:
    """Hypervolume (points,) of the first one, the first two, and so on."""
    limit = np.asarray(reference, float)
    front, total, found = np.empty((0, len(limit))), 0.0, []
    for point in np.asarray(points, float).reshape(-1, len(limit)):
        if gained := gain(point, front, limit):
            total += gained
            front = nondominated(np.vstack([front, point]))
        found.append(total)
    return np.array(found)


def nondominated(points: np.ndarray) -> np.ndarray:
    """The points (points, objectives) that no other is at least as good as; of equal ones the first."""
    front: np.ndarray = points[nondominated_indices(points)]
    return front


def nondominated_indices(points: np.ndarray) -> np.ndarray:
    """Their indices, ascending."""
    n = len(points)
    as_good = (points[:, None] <= points[None]).all(2)  # [i, j]: i is nowhere worse than j
    equal = as_good & as_good.T
    earlier = np.tri(n, k=-1, dtype=bool).T  # [i, j]: i comes before j
    return np.flatnonzero(~(as_good & (~equal | earlier)).any(0))
