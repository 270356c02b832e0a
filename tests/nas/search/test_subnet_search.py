"""Subnet searches as studies: resumed, shared by workers, and read again with what they found."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from milliseek.nas.search.objectives import TOP1, Goal, Metric, parse_constraint
from milliseek.nas.search.subnet_search import (
    EvaluatedSubnet,
    best_per_budget,
    evaluated_subnets,
    hypervolumes,
    make_sampler,
    pareto_front,
    search_subnets,
    spread,
)
from milliseek.nas.studies import finished_trials, load_study
from milliseek.spaces.space import Space, extreme_subnet

MACS = Metric("macs")
SPACE = Space.decode("tiny32-1151-0102")


def size(subnet):
    """Stands in for top-1: bigger is better, as far as it goes."""
    return subnet.network(10).macs / 1e8


def test_a_search_resumes_and_finds_one_for_each_budget(study_url, costs, latency, budgets_ms):
    asked, goal = [], Goal((TOP1, latency))

    def top1(subnet):
        asked.append(subnet)
        return size(subnet)

    def search(evaluations):
        sampler = make_sampler("evolution", costs, goal, budgets_ms, latency)
        study = search_subnets(study_url, "subnets", sampler, top1, evaluations=evaluations)
        return evaluated_subnets(study, goal, budgets_ms, latency)

    assert len(search(4)) == 4
    found = search(12)
    assert len(found) == len(asked) == len(set(asked)) == 12
    assert [e.subnet for e in found] == asked
    assert evaluated_subnets(load_study(study_url, "subnets"), goal, budgets_ms, latency) == found
    for e in found:
        assert e.latency_ms == e.metrics[latency] == pytest.approx(float(costs.of(latency, [e.subnet])[0]))
        assert e.top1 == e.metrics[TOP1] == size(e.subnet)
    best = best_per_budget(found, budgets_ms)
    assert [e.budget_ms for e in best] == sorted(budgets_ms)
    assert all(e.latency_ms <= e.budget_ms for e in best)


def test_objectives_and_constraints_combine_freely(study_url, costs, latency):
    """Three objectives, and what is bounded but no objective is recorded too."""
    constraints = tuple(parse_constraint(text, latency.target) for text in ("size<=1MB", "top1>=0.08"))
    goal = Goal((TOP1, latency, Metric("memory")), constraints)
    study = search_subnets(study_url, "three", make_sampler("guided", costs, goal), size, evaluations=20)
    found = evaluated_subnets(study, goal)
    assert all(e.metrics.keys() == set(goal.metrics) for e in found)
    assert all(e.metrics[Metric("size")] <= 1e6 for e in found)
    grown = hypervolumes(study, goal, {TOP1: 0.0, latency: 6.0, Metric("memory"): 2e5})
    assert (np.diff(grown) >= 0).all()
    assert 0 < grown[-1] < 1
    missed = [i for i, e in enumerate(found) if e.top1 < 0.08]
    assert missed
    assert all(grown[i] == (grown[i - 1] if i else 0) for i in missed), "a trial that misses a bound adds nothing"


def test_a_search_for_one_objective(study_url, costs):
    goal = Goal((TOP1,), (parse_constraint("macs<=10M", "x/y/int8"),))
    study = search_subnets(study_url, "one", make_sampler("nsga2", costs, goal), size, evaluations=6)
    assert [e.top1 for e in pareto_front(evaluated_subnets(study, goal), goal)] == [study.best_value]


WORKER = """
import sys
from milliseek.nas.search.objectives import TOP1, Goal, Metric
from milliseek.nas.search.subnet_costs import SubnetCosts
from milliseek.nas.search.subnet_search import make_sampler, search_subnets
from milliseek.spaces.space import Space

costs = SubnetCosts(Space.decode("tiny32-1151-0102"), {}, 10)
sampler = make_sampler(sys.argv[2], costs, Goal((TOP1, Metric("macs"))), seed=3)
print("ready", flush=True)
sys.stdin.readline()
search_subnets(sys.argv[1], "shared", sampler, lambda s: s.network(10).macs / 1e8, evaluations=24)
"""


@pytest.mark.parametrize("algorithm", ["nsga2", "guided"])
def test_workers_share_a_study(study_url, algorithm):
    command = [sys.executable, "-c", WORKER, study_url, algorithm]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        assert [worker.wait(120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    study = load_study(study_url, "shared")
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    finished = finished_trials(study)
    assert 24 <= len(finished) <= 25, "the last one may come twice"
    assert len({t.user_attrs["subnet"] for t in finished}) >= 23
    assert {t.user_attrs["worker"]["pid"] for t in finished} == {worker.pid for worker in workers}


def evaluated(top1, latency_ms, budget_ms, trial=0):
    return EvaluatedSubnet(extreme_subnet(SPACE, largest=False), trial, top1, latency_ms, budget_ms)


def test_the_best_of_a_budget_is_the_most_accurate_then_the_faster():
    found = [evaluated(0.9, 1.0, 1.0, 1), evaluated(0.9, 0.9, 1.0, 2), evaluated(0.8, 0.5, 1.0, 3)]
    assert [e.trial for e in best_per_budget(found, [1.0])] == [2]
    assert [e.trial for e in best_per_budget(found, [1.0], count=2)] == [2, 1]


def test_a_budget_that_no_subnet_is_slow_enough_for_gets_the_next_best():
    found = [evaluated(0.9, 1.0, 1.0, 1), evaluated(0.9, 0.9, 1.0, 2), evaluated(0.8, 0.5, 1.0, 3)]
    best = best_per_budget(found, [2.0, 1.0])
    assert [(e.trial, e.budget_ms) for e in best] == [(2, 1.0), (1, 2.0)]


def test_what_meets_no_budget_is_chosen_for_none():
    assert best_per_budget([evaluated(0.99, 2.5, 2.0)], [1.0, 2.0]) == []


def test_a_front_is_what_nobody_beats_and_is_spread_evenly():
    goal = Goal((TOP1, MACS))
    values = [(0.5, 5.0), (0.6, 6.0), (0.55, 7.0), (0.7, 7.0), (0.8, 9.0), (0.9, 12.0), (0.5, 5.0)]
    found = [
        replace(evaluated(top1, None, None, i), metrics={TOP1: top1, MACS: macs})
        for i, (top1, macs) in enumerate(values)
    ]
    front = pareto_front(found, goal)
    assert [e.trial for e in front] == [0, 1, 3, 4, 5]
    assert [e.trial for e in spread(front, 3)] == [0, 3, 5]
    assert spread(front, 9) == front
    assert pareto_front([], goal) == spread([], 3) == []
