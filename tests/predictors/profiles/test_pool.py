"""The sampling prior: every path has its turn, and what networks have most comes first."""

from collections import Counter

import numpy as np

from milliseek.predictors.models.physics import path
from milliseek.predictors.profiles.pool import Pool, drawn_order


def test_heavier_things_are_drawn_earlier():
    weights = np.array([1.0, 2.0, 4.0, 8.0])
    rng = np.random.default_rng(0)
    first = Counter(int(drawn_order(weights, rng)[0]) for _ in range(3000))
    shares = np.array([first[i] for i in range(4)]) / 3000
    assert np.abs(shares - weights / weights.sum()).max() < 0.03


def test_every_path_has_its_turn_early(make):
    many = [make.qconv(cin, cout, 14) for cin in range(8, 72, 4) for cout in range(8, 72, 4)]
    few = [make.qconv(8, 8, hw, kernel=3) for hw in (7, 14, 28)]
    pool = Pool(Counter([*many, *few]), dict.fromkeys((*many, *few), 1.0))
    order = pool.in_order(np.random.default_rng(0))
    assert Counter(order) == pool.uses
    rare = {path(kernel) for kernel in few}
    assert sum(path(kernel) in rare for kernel in order[:40]) == 3, "three of 259, but all among the first forty"
