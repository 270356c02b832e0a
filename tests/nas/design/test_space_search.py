"""Space evolution: all spaces can be bred, and a study's ranking survives the process."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from milliseek.nas.design.evolution import AgingEvolution, identity
from milliseek.nas.design.score import SpaceScore
from milliseek.nas.design.space_search import SpaceDomain, evolve_space, ranked_spaces
from milliseek.nas.studies import load_study
from milliseek.spaces.hyperspace import MOBILEW, ONNXW, SMALL32, TINY32
from milliseek.spaces.space import random_space

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(deadline=None)
@given(st.sampled_from([TINY32, SMALL32, ONNXW, MOBILEW]), generators)
def test_parameters_are_the_space(hyperspace, rng):
    domain, space = SpaceDomain(hyperspace), random_space(hyperspace, rng)
    params = domain.params(space)
    assert domain.space(params) == space
    assert params.keys() == domain.distributions.keys()
    assert all(d._contains(params[name]) for name, d in domain.distributions.items())


@settings(deadline=None)
@given(st.sampled_from([TINY32, SMALL32, ONNXW, MOBILEW]), generators, st.integers(0, 1000))
def test_a_child_differs_in_one_block_or_one_window(hyperspace, rng, number):
    domain = SpaceDomain(hyperspace)
    parent = domain.params(random_space(hyperspace, rng))
    child = domain.child(parent, number, rng)
    changed = [name for name in parent if parent[name] != child[name]]
    assert len(changed) == 1
    assert changed[0].startswith("window" if number % 2 else "block")
    domain.space(child)


def test_uniform_spaces_come_first():
    domain, rng = SpaceDomain(SMALL32), np.random.default_rng(0)
    first = [domain.space(domain.initial(number, rng)) for number in range(12)]
    assert [space.blocks for space in first] == [(block,) * 4 for block in range(6)] * 2
    assert {space.windows for space in first[:6]} == {(0, 0, 0, 0)}
    assert {space.windows for space in first[6:]} == {(1, 3, 3, 3)}
    assert len({domain.space(domain.initial(12 + i, rng)) for i in range(20)}) > 15


class Wishes:
    """Scores a space by how many of its blocks are of type 4; block type 0 is too slow for the budget."""

    tables = SimpleNamespace(hyperspace=TINY32)

    def __init__(self):
        self.scored = []

    def score(self, space):
        self.scored.append(space.encoding)
        slow = space.blocks.count(0)
        quality = float("inf") if slow else 0.5
        return SpaceScore(float(space.blocks.count(4)) if not slow else 0.0, (0.0 if slow else 0.25,), (quality,))


@pytest.fixture
def url(tmp_path):
    file = tmp_path / "studies.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # as the project's database is
    return f"sqlite:///{file}"


def test_it_finds_better_spaces_resumes_and_ranks(url):
    scorer = Wishes()
    options = {"population": 13, "tournament": 6, "seed": 3}
    evolve_space(url, "spaces", scorer, evaluations=20, **options)
    ranked = evolve_space(url, "spaces", scorer, evaluations=45, **options)
    assert len(scorer.scored) == 45, "the second sitting scores what is missing"
    assert len(set(scorer.scored)) == 45
    assert [s.score for s in ranked] == sorted((s.score for s in ranked), reverse=True)
    assert len(ranked) == len({s.space for s in ranked}) == 45
    assert ranked[0].score == 4 == ranked[0].space.blocks.count(4)
    slow = [s for s in ranked if 0 in s.space.blocks]
    assert all((s.score, s.p, s.quality) == (0.0, (0.0,), (float("inf"),)) for s in slow)
    assert slow
    assert ranked_spaces(load_study(url, "spaces")) == ranked


def test_no_space_is_scored_twice_when_all_windows_of_the_best_blocks_are_known():
    """Both kinds of children are tried: with two block types there are few windows for the blocks of the best."""
    narrow = replace(SMALL32, name="narrow", blocks=SMALL32.blocks[1:3])
    domain = SpaceDomain(narrow)
    sampler = AgingEvolution(domain, population=20, tournament=10, litter=2, seed=0)
    finished, known = [], set()
    for number in range(600):
        params = sampler.propose(number, finished, known)
        known.add(identity(params))
        value = -sum(params[f"block{i}"] for i in range(1, 5))
        trial = create_trial(values=[value], params=params, distributions=dict(domain.distributions))
        trial.number = number
        finished.append(trial)
    assert len(known) == 600 < narrow.size


WHOLE_WINDOWS = tuple(replace(stage, window=len(stage.widths)) for stage in SMALL32.stages)


@pytest.mark.parametrize("change", [{"blocks": SMALL32.blocks[:1]}, {"stages": WHOLE_WINDOWS}])
def test_where_one_kind_of_choice_is_none_the_other_is_changed(change):
    domain, rng = SpaceDomain(replace(SMALL32, **change)), np.random.default_rng(0)
    parent = domain.initial(0, rng)
    assert all(domain.child(parent, number, rng) != parent for number in (0, 1))


def test_a_hyperspace_of_one_space_has_no_other_child():
    domain = SpaceDomain(replace(SMALL32, blocks=SMALL32.blocks[:1], stages=WHOLE_WINDOWS))
    parent = domain.initial(0, np.random.default_rng(0))
    assert domain.child(parent, 0, np.random.default_rng(0)) == parent


def test_progress_is_told(url):
    told = []
    evolve_space(url, "s", Wishes(), evaluations=9, population=5, tournament=2, on_trial=told.append)
    assert told == list(range(10))
    assert [t.state for t in load_study(url, "s").get_trials()] == [TrialState.COMPLETE] * 9


def test_a_space_that_was_scored_twice_is_ranked_once():
    attributes = {"space": "tiny32-1111-0000", "p": [0.5], "quality": [None]}
    trials = [SimpleNamespace(number=i, values=[1.0], user_attrs=attributes) for i in range(2)]
    (only,) = ranked_spaces(SimpleNamespace(get_trials=lambda **_: trials))
    assert only.space.encoding == "tiny32-1111-0000"
    assert only.quality == (float("inf"),)
