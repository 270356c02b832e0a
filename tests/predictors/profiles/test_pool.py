"""The sampling prior: every path has its turn, and what networks have most comes first."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, MeasurementError
from milliseek.predictors.models.physics import path
from milliseek.predictors.profiles import pool as pool_module
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


class Published:
    """Three published networks: one that is measured, one that the runtime refuses, one whose worker died."""

    answers: ClassVar = {
        "good": None,
        "refused": InvalidInput("It is refused.", ""),
        "unlucky": MeasurementError("Died.", ""),
    }

    def __init__(self, monkeypatch, database, kernel) -> None:
        self.asked: list[str] = []
        self.kernel = kernel
        self.failing: set[str] = {"refused", "unlucky"}
        networks = [SimpleNamespace(name=name, family=name) for name in self.answers]
        monkeypatch.setattr(pool_module, "prior_networks", lambda *_: networks)
        monkeypatch.setattr(pool_module, "prepare_prior", lambda network: SimpleNamespace(data=network.name))
        monkeypatch.setattr(pool_module, "split_devices", lambda *_: [nullcontext()])
        monkeypatch.setattr(pool_module, "split_network", self.split)
        self.target = SimpleNamespace(name="a/b/c", runtime_version="1", weight_bits=8, format="onnx", precision="int8")
        self.database = database

    def split(self, _, name: str):
        self.asked.append(name)
        if name in self.failing:
            raise self.answers[name]
        return [SimpleNamespace(kernel=self.kernel)]

    def found(self) -> set[str]:
        self.asked.clear()
        return {each.name for each in pool_module._published(self.database, self.target, 60.0, lambda *_: None)}


@pytest.fixture
def published(monkeypatch, tmp_path, make):
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield Published(monkeypatch, database, make.qconv(8, 8, 14))
    database.close()


def test_a_network_whose_splitting_failed_in_passing_is_asked_for_again(published):
    assert published.found() == {"good"}
    assert sorted(published.asked) == ["good", "refused", "unlucky"]
    published.failing = {"refused"}
    assert published.found() == {"good", "unlucky"}
    assert published.asked == ["unlucky"], "what the runtime refuses is known, and what it took too"


def test_what_was_split_before_an_interruption_is_kept(published, monkeypatch):
    split = published.split

    def interrupted(device, name: str):
        if len(published.asked) == 2:
            raise KeyboardInterrupt
        return split(device, name)

    monkeypatch.setattr(pool_module, "split_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        published.found()
    before = list(published.asked)
    assert len(before) == 2
    monkeypatch.setattr(pool_module, "split_network", split)
    published.failing = {"refused"}
    published.found()
    assert not (set(published.asked) & set(before) - {"unlucky"})
