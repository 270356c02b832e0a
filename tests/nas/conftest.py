"""A space whose subnets cost what they compute, for tests that run no network."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from milliseek.nas.search.objectives import Metric
from milliseek.nas.search.subnet_costs import SubnetCosts
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.results import LatencyTable
from milliseek.spaces.codes import block_keys, block_layers
from milliseek.spaces.hyperspace import TINY32
from milliseek.spaces.space import Space, random_subnet

TARGET = "here/onnxruntime/int8"
CLASSES = 10


@pytest.fixture(scope="session")
def space() -> Space:
    return Space.decode("tiny32-1151-0102")


@pytest.fixture(scope="session")
def lookup(space: Space) -> LatencyLookup:
    """A block costs what it computes, plus a little for being there."""
    keys = block_keys(TINY32, space)
    latency_ms = [0.01 + sum(layer.macs for layer in block_layers(TINY32, key)) / 1e7 for key in keys]
    table = LatencyTable(space.encoding, TARGET, "p@1", np.array(keys, np.int32), np.array(latency_ms), 0.0, (0.1, 0.1))
    return LatencyLookup(table)


@pytest.fixture(scope="session")
def latency() -> Metric:
    return Metric("latency", TARGET)


@pytest.fixture(scope="session")
def costs(space: Space, lookup: LatencyLookup) -> SubnetCosts:
    return SubnetCosts(space, {TARGET: lookup}, CLASSES)


@pytest.fixture(scope="session")
def budgets_ms(space: Space, costs: SubnetCosts, latency: Metric) -> tuple[float, ...]:
    rng = np.random.default_rng(0)
    drawn = costs.of(latency, [random_subnet(space, rng) for _ in range(500)])
    return tuple(np.quantile(drawn, [0.2, 0.5, 0.8]).tolist())


@pytest.fixture
def study_url(tmp_path: Path) -> str:
    """Of a new database, in WAL mode as the project's is."""
    file = tmp_path / "studies.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    return f"sqlite:///{file}"
