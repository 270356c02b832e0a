"""Naming predictors: the newest of a target, or one version."""

import dataclasses

import pytest

from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, NotFound
from milliseek.predictors.stored.versions import predictor_version

TARGET = "local/onnxruntime/fp32"


@pytest.fixture
def database(tmp_path):
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield database
    database.close()


@pytest.fixture
def two(database, made_up, keep):
    """Two versions, told apart by the version of their runtime."""
    return [keep(database, dataclasses.replace(made_up, runtime_version=version)) for version in ("1.1", "1.2")]


def test_by_target_and_by_version(database, two):
    first, second = two
    assert predictor_version(database, TARGET).name == second
    assert predictor_version(database, f"{TARGET}@1").name == first
    assert predictor_version(database, first).predictor.runtime_version == "1.1"
    assert predictor_version(database, second).predictor.runtime_version == "1.2"


def test_it_knows_when_it_was_made(database, two):
    first, second = (predictor_version(database, name) for name in two)
    assert first.created_at <= second.created_at
    assert first.created_at.tzinfo is not None
    assert (first.kernels, first.held_out["kernels"]) == (16, 40)


def test_versions_that_there_are_not(database, two):
    with pytest.raises(NotFound, match="no version 3") as caught:
        predictor_version(database, f"{TARGET}@3")
    assert two[1] in caught.value.remedy
    with pytest.raises(NotFound, match="not known"):
        predictor_version(database, "pixel6/litert/int8@1")
    with pytest.raises(InvalidInput, match="not a target"):
        predictor_version(database, "phone@1")


def test_a_core_is_no_version(database, two, made_up, keep):
    """`@2` names version 2 while there is one; a target on core 0 is found by its name, or with its version."""
    pinned = keep(database, dataclasses.replace(made_up, target=f"{made_up.target}@0"))
    assert pinned == f"{made_up.target}@0@1"
    for name in (f"{TARGET}@0", f"{TARGET}@0@1", pinned):
        assert predictor_version(database, name).name == pinned
    assert predictor_version(database, f"{TARGET}@2").name == two[1]
