"""Evolution as a sampler: no individual twice, the best of the tournament bears, and the study is all the state."""

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from milliseek.nas.design.evolution import AgingEvolution, identity


class Bits:
    """Numbers of `length` bits; a child differs from its parent in one."""

    def __init__(self, length=8):
        self.length = length
        self.distributions = {f"b{i}": IntDistribution(0, 1) for i in range(length)}

    def initial(self, number, rng):
        return {name: int(rng.integers(2)) for name in self.distributions}

    def child(self, parent, number, rng):
        name = f"b{rng.integers(self.length)}"
        return {**parent, name: 1 - parent[name]}


def study_of(domain, *, population=6, tournament=3, seed=0):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = AgingEvolution(domain, population=population, tournament=tournament, seed=seed)
    return optuna.create_study(direction="maximize", sampler=sampler)


def evolve(study, domain, trials):
    for _ in range(trials):
        trial = study.ask(dict(domain.distributions))
        study.tell(trial, float(sum(trial.params.values())))


def differences(a, b):
    return sum(a[name] != b[name] for name in a)


def test_no_individual_is_proposed_twice_and_the_sum_grows():
    domain = Bits()
    study = study_of(domain)
    evolve(study, domain, 60)
    assert len({identity(t.params) for t in study.trials}) == 60
    assert study.best_value >= 7
    assert study.best_value > max(t.value for t in study.trials[:6]) or study.best_value == 8


def test_when_nothing_new_is_left_it_repeats_rather_than_hangs():
    domain = Bits(2)
    study = study_of(domain, population=3)
    evolve(study, domain, 8)
    assert len({identity(t.params) for t in study.trials}) == 4


def test_the_first_population_is_not_bred():
    domain = Bits()
    domain.child = None  # calling it would fail
    study = study_of(domain, population=20)
    evolve(study, domain, 20)
    assert len(study.trials) == 20


def test_with_a_full_tournament_every_child_has_the_best_of_the_young_as_parent():
    domain = Bits()
    study = study_of(domain, population=5, tournament=5)
    evolve(study, domain, 5)
    for _ in range(15):
        young = study.trials[-5:]
        best = max(t.value for t in young)
        trial = study.ask(dict(domain.distributions))
        study.tell(trial, float(sum(trial.params.values())))
        assert any(differences(trial.params, t.params) == 1 for t in young if t.value == best)


def test_the_old_bear_no_children():
    domain = Bits()
    study = study_of(domain, population=3, tournament=3)
    champion = dict.fromkeys(domain.distributions, 1)
    study.enqueue_trial(champion)
    for i in range(3):
        study.enqueue_trial({**dict.fromkeys(domain.distributions, 0), f"b{i}": 1})
    evolve(study, domain, 4)
    trial = study.ask(dict(domain.distributions))
    assert differences(trial.params, champion) > 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=12, unique=True), st.integers(1, 12), st.integers(0, 999))
def test_a_tournament_picks_the_best_it_sees(values, tournament, seed):
    domain = Bits()
    sampler = AgingEvolution(domain, population=len(values), tournament=tournament)
    trials = [
        optuna.trial.create_trial(value=value, params={"b0": i % 2}, distributions={"b0": IntDistribution(0, 1)})
        for i, value in enumerate(values)
    ]
    for number, (trial, value) in enumerate(zip(trials, values, strict=True)):
        trial.params = {"value": value, "number": number}
    chosen = sampler.parent(trials, np.random.default_rng(seed))
    assert chosen["value"] in sorted(values)[min(tournament, len(values)) - 1 :], "nobody worse than that can win"


def test_proposals_depend_on_the_study_alone():
    """A second sampler that has seen nothing goes on as the first one would."""
    domain = Bits()
    long, short = study_of(domain), study_of(domain)
    evolve(long, domain, 20)
    evolve(short, domain, 11)
    short.sampler = AgingEvolution(domain, population=6, tournament=3, seed=0)
    evolve(short, domain, 9)
    assert [t.params for t in short.trials] == [t.params for t in long.trials]


def test_seeds_differ():
    domain = Bits()
    first, second = study_of(domain, seed=1), study_of(domain, seed=2)
    evolve(first, domain, 5)
    evolve(second, domain, 5)
    assert [t.params for t in first.trials] != [t.params for t in second.trials]


def test_an_enqueued_trial_keeps_its_parameters():
    domain = Bits()
    study = study_of(domain)
    wanted = dict.fromkeys(domain.distributions, 1)
    study.enqueue_trial(wanted)
    assert study.ask(dict(domain.distributions)).params == wanted


def test_what_another_worker_is_evaluating_is_not_proposed_again():
    domain = Bits(3)
    study = study_of(domain, population=100)
    asked = [study.ask(dict(domain.distributions)) for _ in range(8)]
    assert all(t.state is TrialState.RUNNING for t in study.trials)
    assert len({identity(t.params) for t in asked}) == 8


def test_identity_is_independent_of_the_order_of_names():
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity({"a": 1, "b": 2}) != identity({"a": 2, "b": 1})


def test_single_parameters_are_never_asked_for():
    study = study_of(Bits())
    with pytest.raises(AssertionError, match="surprise"):
        study.ask().suggest_int("surprise", 0, 1)
