"""Forests are scikit-learn's, stored without it, and never run away on a damaged file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor

from milliseek.predictors.models.forest import Forest, fit_forest


def data(samples=80, features=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 6, (samples, features)).astype(np.float32) + rng.choice([0, 0.1], (samples, features))
    return x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + rng.normal(0, 0.1, samples)


@pytest.mark.parametrize("min_leaf", [1, 4])
def test_it_predicts_what_scikit_learn_predicts(min_leaf):
    x, y = data()
    reference = ExtraTreesRegressor(20, min_samples_leaf=min_leaf, max_features=0.6, random_state=3).fit(x, y)
    forest = fit_forest(x, y, trees=20, min_leaf=min_leaf, seed=3)
    for points in (x, data(seed=9)[0], data(seed=9)[0] + 1e-9):  # the last lie a hair off thresholds, in float64
        assert np.array_equal(
            forest.predict_trees(points), np.stack([tree.predict(points) for tree in reference.estimators_], 1)
        )
        assert forest.predict(points) == pytest.approx(reference.predict(points), rel=1e-13)


def test_arrays_bring_it_back():
    x, y = data()
    forest = fit_forest(x, y, trees=7)
    again = Forest.from_arrays(forest.arrays(), features=5)
    assert np.array_equal(again.predict(x), forest.predict(x))


def test_nothing_to_predict():
    assert fit_forest(*data(), trees=3).predict(np.zeros((0, 5))).shape == (0,)


def stump(**changes):
    """x[0] <= 1: 10, else 20."""
    arrays = {
        "feature": np.array([0, -1, -1], np.int32),
        "threshold": np.array([1.0, 0, 0]),
        "left": np.array([1, -1, -1], np.int32),
        "right": np.array([2, -1, -1], np.int32),
        "value": np.array([0.0, 10, 20]),
        "roots": np.array([0], np.int32),
    }
    return {**arrays, **{name: np.array(value, arrays[name].dtype) for name, value in changes.items()}}


def test_a_stump():
    forest = Forest.from_arrays(stump(), features=1)
    assert forest.predict(np.array([[0.0], [1.0], [1.5]])).tolist() == [10, 10, 20]


@pytest.mark.parametrize(
    "changes",
    [
        {"left": [0, -1, -1]},
        {"right": [3, -1, -1]},
        {"left": [-1, -1, -1]},
        {"feature": [0, 0, -1], "left": [1, 0, -1], "right": [2, 2, -1]},
        {"feature": [1, -1, -1]},
        {"roots": []},
        {"roots": [3]},
        {"roots": [-1]},
        {"value": [0.0, 10]},
        {"threshold": [[1.0, 0, 0]]},
    ],
    ids=[
        *("to itself", "beyond the end", "nowhere", "cycle", "unknown feature", "no tree", "root beyond"),
        *("root before", "too few values", "wrong rank"),
    ],
)
def test_arrays_that_lead_nowhere_are_refused(changes):
    with pytest.raises(ValueError, match=r"."):
        Forest.from_arrays(stump(**changes), features=1)


@pytest.mark.parametrize("name", ["feature", "left", "roots"])
def test_numbers_of_nodes_are_integers(name):
    with pytest.raises(ValueError, match="integers"):
        Forest.from_arrays({**stump(), name: stump()[name].astype(np.float64)}, features=1)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_is_accepted_can_be_evaluated(draw):
    count = draw.draw(st.integers(1, 6))
    numbers = st.lists(st.integers(-2, count + 1), min_size=count, max_size=count)
    arrays = stump(
        **{name: draw.draw(numbers) for name in ("feature", "left", "right")},
        threshold=[0.5] * count,
        value=range(count),
        roots=draw.draw(st.lists(st.integers(-1, count), max_size=3)),
    )
    try:
        forest = Forest.from_arrays(arrays, features=2)
    except ValueError:
        return
    assert np.isfinite(forest.predict(np.array([[0.0, 1.0], [1.0, 0.0]]))).all()
