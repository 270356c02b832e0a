"""Subnet search: every proposal fits the budget that it is made for, and the best one of each budget is found."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.nas.evolution import identity
from milliseek.nas.studies import load_study
from milliseek.nas.subnet_search import (
    WINDOW,
    BudgetEvolution,
    EvaluatedSubnet,
    SubnetDomain,
    best_per_budget,
    evaluated_subnets,
    search_subnets,
)
from milliseek.predictors.lookup import LatencyLookup
from milliseek.results import LatencyTable
from milliseek.spaces.codes import block_keys, block_layers, encode_genes
from milliseek.spaces.hyperspace import ONNXW, SMALL32, TINY32
from milliseek.spaces.space import Space, Subnet, extreme_subnet, random_space, random_subnet

SPACE = Space.decode("tiny32-1151-0102")
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@pytest.fixture(scope="module")
def lookup():
    """A block costs what it computes, plus a little for being there."""
    keys = block_keys(TINY32, SPACE)
    latency_ms = [0.01 + sum(layer.macs for layer in block_layers(TINY32, key)) / 1e7 for key in keys]
    table = LatencyTable(
        SPACE.encoding, "here/onnxruntime/int8", "p@1", np.array(keys, np.int32), np.array(latency_ms), 0.0, (0.1, 0.1)
    )
    return LatencyLookup(table)


def latency_of(lookup, *subnets):
    return lookup.subnets_ms(SPACE, encode_genes(subnets))


@pytest.fixture(scope="module")
def budgets_ms(lookup):
    rng = np.random.default_rng(0)
    return tuple(np.quantile(latency_of(lookup, *(random_subnet(SPACE, rng) for _ in range(500))), [0.2, 0.5, 0.8]))


@pytest.fixture
def url(tmp_path):
    file = tmp_path / "studies.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # as the project's database is
    return f"sqlite:///{file}"


def size(subnet):
    """Stands in for top-1: bigger is better, as far as it goes."""
    return subnet.network(10).macs / 1e9


@settings(deadline=None)
@given(st.sampled_from([TINY32, SMALL32, ONNXW]), generators)
def test_parameters_are_the_subnet(hyperspace, rng):
    space = random_space(hyperspace, rng)
    domain, subnet = SubnetDomain(space), random_subnet(space, rng)
    params = domain.params(subnet)
    assert domain.subnet(params) == subnet
    assert params.keys() == domain.distributions.keys()
    assert all(d._contains(d.to_internal_repr(params[name])) for name, d in domain.distributions.items())


@settings(deadline=None, max_examples=40)
@given(generators)
def test_children_are_subnets_made_of_their_parents(rng):
    domain = SubnetDomain(SPACE)
    a, b = (domain.params(random_subnet(SPACE, rng)) for _ in range(2))
    mutant, mixed = domain.mutated(a, rng), domain.crossed(a, b, rng)
    for child in (mutant, mixed):
        assert domain.subnet(child).is_legal
        assert domain.params(domain.subnet(child)) == child, "absent blocks keep their smallest values"
    assert all(mixed[f"{s}.depth"] in (a[f"{s}.depth"], b[f"{s}.depth"]) for s in range(5))
    assert mixed["resolution"] in (a["resolution"], b["resolution"])


def test_mutations_change_some_genes_but_not_all():
    domain, rng = SubnetDomain(SPACE), np.random.default_rng(0)
    params = domain.params(extreme_subnet(SPACE, largest=True))
    mutants = [domain.mutated(params, rng) for _ in range(50)]
    changed = [sum(mutant[name] != params[name] for name in params) for mutant in mutants]
    assert 0 < np.mean(changed) < 0.6 * len(params)
    assert len({identity(mutant) for mutant in mutants}) > 45


def test_equal_subnets_are_equal_parameters_whatever_stands_in_absent_blocks():
    domain = SubnetDomain(SPACE)
    shallow = domain.params(extreme_subnet(SPACE, largest=False))
    scribbled = {**shallow, "2.2.kernel": 5}
    assert domain.subnet(scribbled) == domain.subnet(shallow)


@pytest.fixture
def few_rounds(monkeypatch):
    """Where nothing fits, it gives up looking sooner."""
    monkeypatch.setattr(BudgetEvolution, "ROUNDS", 2)


def study_of(lookup, budgets_ms, **options):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    domain = SubnetDomain(SPACE)
    sampler = BudgetEvolution(domain, lookup, budgets_ms, warm_up=3, **options)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler), domain


def propose(study, domain, lookup):
    trial = study.ask(dict(domain.distributions))
    subnet = domain.subnet(trial.params)
    latency_ms = float(latency_of(lookup, subnet)[0])
    study.tell(trial, [size(subnet), latency_ms])
    return subnet, latency_ms


def test_proposals_fit_their_budgets_in_turn(lookup, budgets_ms):
    study, domain = study_of(lookup, budgets_ms)
    proposals = [propose(study, domain, lookup) for _ in range(24)]
    for number, (_, latency_ms) in enumerate(proposals):
        budget_ms = budgets_ms[number % 3]
        assert WINDOW * budget_ms <= latency_ms <= budget_ms
    assert len({subnet for subnet, _ in proposals}) == 24


def test_proposals_depend_on_the_study_alone(lookup, budgets_ms):
    proposals = []
    for stop in (16, 7):
        study, domain = study_of(lookup, budgets_ms)
        found = [propose(study, domain, lookup)[0] for _ in range(stop)]
        study.sampler = BudgetEvolution(domain, lookup, budgets_ms, warm_up=3)
        proposals.append(found + [propose(study, domain, lookup)[0] for _ in range(16 - stop)])
    assert proposals[0] == proposals[1]


def test_a_window_with_nothing_in_it_gives_the_slowest_that_fits(lookup, few_rounds):
    largest_ms = float(latency_of(lookup, extreme_subnet(SPACE, largest=True))[0])
    study, domain = study_of(lookup, [2 * largest_ms])
    _, latency_ms = propose(study, domain, lookup)
    assert 0.3 * largest_ms < latency_ms <= largest_ms


def test_an_impossible_budget_names_the_fastest(lookup, few_rounds):
    fastest_ms = float(latency_of(lookup, extreme_subnet(SPACE, largest=False))[0])
    study, domain = study_of(lookup, [0.9 * fastest_ms])
    with pytest.raises(InvalidInput, match=f"{fastest_ms:.3g} ms") as caught:
        propose(study, domain, lookup)
    assert SPACE.encoding in caught.value.message
    assert "budget" in caught.value.remedy


def test_a_budget_that_only_the_smallest_meets(lookup, few_rounds):
    smallest = extreme_subnet(SPACE, largest=False)
    study, domain = study_of(lookup, [1.0001 * float(latency_of(lookup, smallest)[0])])
    assert propose(study, domain, lookup)[0] == smallest


def test_a_search_resumes_and_finds_one_for_each_budget(url, lookup, budgets_ms):
    asked = []

    def top1(subnet):
        asked.append(subnet)
        return size(subnet)

    def search(evaluations):
        return search_subnets(url, "subnets", SPACE, lookup, budgets_ms, top1, evaluations=evaluations, warm_up=3)

    assert len(search(4)) == 4
    found = search(12)
    assert len(found) == len(asked) == len(set(asked)) == 12
    assert [e.subnet for e in found] == asked
    assert evaluated_subnets(load_study(url, "subnets"), budgets_ms) == found
    for e in found:
        assert e.latency_ms == pytest.approx(float(latency_of(lookup, e.subnet)[0]))
        assert e.top1 == size(e.subnet)
    best = best_per_budget(found, budgets_ms)
    assert [e.budget_ms for e in best] == sorted(budgets_ms)
    assert all(e.latency_ms <= e.budget_ms for e in best)


def evaluated(top1, latency_ms, budget_ms, trial=0):
    return EvaluatedSubnet(extreme_subnet(SPACE, largest=False), trial, top1, latency_ms, budget_ms)


def test_the_best_of_a_budget_is_the_most_accurate_then_the_faster():
    found = [evaluated(0.9, 1.0, 1.0, 1), evaluated(0.9, 0.9, 1.0, 2), evaluated(0.8, 0.5, 1.0, 3)]
    assert [e.trial for e in best_per_budget(found, [1.0])] == [2]


def test_a_budget_that_no_subnet_is_slow_enough_for_gets_the_next_best():
    found = [evaluated(0.9, 1.0, 1.0, 1), evaluated(0.9, 0.9, 1.0, 2), evaluated(0.8, 0.5, 1.0, 3)]
    best = best_per_budget(found, [2.0, 1.0])
    assert [(e.trial, e.budget_ms) for e in best] == [(2, 1.0), (1, 2.0)]


def test_what_meets_no_budget_is_chosen_for_none():
    assert best_per_budget([evaluated(0.99, 2.5, 2.0)], [1.0, 2.0]) == []


def test_breeding_improves_on_random_subnets(lookup, budgets_ms):
    """Among equally slow subnets the score favours one resolution, which only the elite can tell."""
    study, domain = study_of(lookup, [budgets_ms[1]])
    scores = []
    for _ in range(40):
        trial = study.ask(dict(domain.distributions))
        subnet = domain.subnet(trial.params)
        kernels = [block.kernel for stage in subnet.stages for block in stage]
        scores.append(float(np.mean([kernel == 3 for kernel in kernels])) + (subnet.resolution == 32))
        study.tell(trial, [scores[-1], float(latency_of(lookup, subnet)[0])])
    assert np.mean(scores[-15:]) > np.mean(scores[:10])
    assert max(scores) > max(scores[:3])


def test_the_lookup_of_a_replaced_table_is_used(lookup, budgets_ms):
    doubled = LatencyLookup(replace(lookup.table, latency_ms=2 * lookup.table.latency_ms))
    study, domain = study_of(doubled, [budgets_ms[1]])
    trial = study.ask(dict(domain.distributions))
    subnet: Subnet = domain.subnet(trial.params)
    assert latency_of(lookup, subnet)[0] <= 0.5 * budgets_ms[1]
