"""Hypervolume against volumes worked out by hand, by drawing, and by Optuna."""

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from milliseek.nas.search.hypervolume import gain, growth, hypervolume, nondominated, nondominated_indices


def test_a_staircase():
    points = np.array([[0.0, 2.0], [1.0, 1.0], [1.5, 1.5], [2.5, 0.5]])
    assert hypervolume(points, np.array([3.0, 3.0])) == pytest.approx(3 + 2 + 0.5 * 0.5)


def test_a_cuboid_and_a_slab():
    points = np.array([[1.0, 1.0, 1.0], [0.0, 1.5, 1.5]])
    assert hypervolume(points, np.array([2.0, 2.0, 2.0])) == pytest.approx(1 + 0.25)


def test_nothing_and_beyond_the_reference():
    reference = np.ones(2)
    assert hypervolume(np.empty((0, 2)), reference) == 0
    assert hypervolume(np.array([[0.5, 1.0], [2.0, 0.0]]), reference) == 0
    assert gain(np.array([0.5, 1.0]), np.empty((0, 2)), reference) == 0


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_as_many_drawn_points_are_dominated(objectives):
    rng = np.random.default_rng(objectives)
    points, drawn = rng.random((12, objectives)), rng.random((40_000, objectives))
    dominated = (points[None] <= drawn[:, None]).all(2).any(1).mean()
    assert hypervolume(points, np.ones(objectives)) == pytest.approx(dominated, abs=0.015)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_growth_is_what_optuna_plots():
    rng = np.random.default_rng(0)
    values = rng.random((30, 3))
    study = optuna.create_study(directions=["minimize"] * 3)
    study.add_trials([optuna.create_trial(values=row) for row in values.tolist()])
    shown = optuna.visualization.plot_hypervolume_history(study, [0.9] * 3).data[0].y
    np.testing.assert_allclose(growth(values, [0.9] * 3), shown, atol=1e-12)


grids = arrays(float, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=st.integers(0, 4).map(float))


@settings(deadline=None)
@given(grids)
def test_growth_never_shrinks_and_ends_at_the_hypervolume(points):
    reference = np.full(points.shape[1], 5.0)
    found = growth(points, reference)
    assert (np.diff(found, prepend=0) >= -1e-9).all()
    if len(points):
        assert found[-1] == pytest.approx(hypervolume(points, reference))


@settings(deadline=None)
@given(grids)
def test_a_front_has_one_of_each_and_nobody_who_is_dominated(points):
    front = nondominated(points)
    assert len(np.unique(front, axis=0)) == len(front)
    for point in points:
        assert (front <= point).all(1).any(), "somebody on the front is at least as good"
    for i in nondominated_indices(points):
        assert not ((points <= points[i]).all(1) & (points < points[i]).any(1)).any()
