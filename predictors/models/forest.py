"""Tree ensembles as plain arrays: trained by scikit-learn, stored and evaluated without it.

A pickle of an estimator breaks with the next scikit-learn and runs code on load; five arrays do neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Forest:
    """Regression trees flattened into one node list; the prediction is the mean over trees.

    All arrays are (nodes,): `feature` (-1 in a leaf), `threshold` (left if x <= threshold), `left` and `right`
    (node numbers), `value`; `roots` (trees,).
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    roots: np.ndarray

    def predict_trees(self, x: np.ndarray) -> np.ndarray:
        """(samples, trees) from features (samples, features)."""
        # scikit-learn compares in float32; so must we, or samples on a threshold fall to the other side.
        x = np.asarray(x, np.float32)
        node = np.broadcast_to(self.roots, (len(x), len(self.roots))).copy()
        rows = np.arange(len(x))[:, None]
        while True:
            feature = self.feature[node]
            inner = feature >= 0
            if not inner.any():
                return np.asarray(self.value[node])
            goes_left = x[rows, np.maximum(feature, 0)] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(samples,): mean over trees."""
        return np.asarray(self.predict_trees(x).mean(axis=1))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, for storing."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], features: int) -> Forest:
        """Inverse of `arrays` for a forest on so many features; raises ValueError where a number points nowhere."""
        forest = cls(**arrays)
        if any(array.ndim != 1 for array in arrays.values()):
            raise ValueError("a node array is not a list")
        if any(array.dtype.kind != "i" for array in (forest.feature, forest.left, forest.right, forest.roots)):
            raise ValueError("features and nodes are not numbered in integers")
        if any(array.dtype.kind != "f" for array in (forest.threshold, forest.value)):
            raise ValueError("thresholds and values are not floats")
        count = len(forest.feature)
        if any(len(array) != count for array in (forest.threshold, forest.left, forest.right, forest.value)):
            raise ValueError("the node arrays differ in length")
        if np.any(forest.feature >= features):
            raise ValueError("a node asks for a feature that there is not")
        inner = np.flatnonzero(forest.feature >= 0)
        for child in (forest.left[inner], forest.right[inner]):
            # Children come after their parent: evaluation ends, whatever the file says.
            if np.any(child <= inner) or np.any(child >= count):
                raise ValueError("a node points outside its tree")
        if len(forest.roots) == 0 or np.any(forest.roots < 0) or np.any(forest.roots >= count):
            raise ValueError("a root points outside the forest")
        return forest


def fit_forest(x: np.ndarray, y: np.ndarray, *, trees: int = 64, min_leaf: int = 1, seed: int = 0) -> Forest:
    """Extremely randomised trees on features (samples, features) and values (samples,)."""
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(trees, min_samples_leaf=min_leaf, max_features=0.6, random_state=seed, n_jobs=1)
    model.fit(x, y)
    parts = [estimator.tree_ for estimator in model.estimators_]
    offsets = np.cumsum([0, *(tree.node_count for tree in parts)])[:-1]

    def joined(name: str, dtype: type) -> np.ndarray:
        return np.concatenate([getattr(tree, name).reshape(tree.node_count, -1)[:, 0] for tree in parts]).astype(dtype)

    counts = [tree.node_count for tree in parts]
    shift = np.repeat(offsets, counts)
    return Forest(
        feature=np.where(joined("children_left", np.int64) < 0, -1, joined("feature", np.int64)).astype(np.int32),
        threshold=joined("threshold", np.float64),
        left=(joined("children_left", np.int64) + shift).astype(np.int32),
        right=(joined("children_right", np.int64) + shift).astype(np.int32),
        value=joined("value", np.float64),
        roots=offsets.astype(np.int32),
    )
