"""Ways of proposing subnets: each keeps to the constraints, repeats nothing, and finds more than chance does."""

import itertools
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from milliseek.errors import InvalidInput
from milliseek.nas.design.evolution import identity
from milliseek.nas.search.budget_evolution import WINDOW, BudgetEvolution
from milliseek.nas.search.guided_search import BATCH, WARM_UP, GuidedSearch
from milliseek.nas.search.nsga2 import NSGA2
from milliseek.nas.search.objectives import TOP1, Goal, Metric, met, parse_constraint
from milliseek.nas.search.subnet_costs import SubnetCosts
from milliseek.nas.search.subnet_domain import SubnetDomain
from milliseek.nas.search.subnet_sampler import RandomSubnets
from milliseek.nas.search.subnet_search import hypervolumes, make_sampler
from milliseek.nas.studies import finished_trials
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.spaces.hyperspace import ONNXW, SMALL32, TINY32
from milliseek.spaces.space import Space, extreme_subnet, random_space, random_subnet

MACS = Metric("macs")
GOAL = Goal((TOP1, MACS))
ALGORITHMS = ("evolution", "nsga2", "guided", "random")
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def bound(text):
    return parse_constraint(text, "x/y/int8")


def sampler_of(algorithm, costs, latency, budgets_ms, goal=None, seed=0):
    return make_sampler(algorithm, costs, goal or Goal((TOP1, latency)), budgets_ms, latency, seed)


def study_of(sampler):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=sampler.goal.directions, sampler=sampler)


def accuracy(subnet):
    """Stands in for top-1: more products help less and less, small kernels and a wide last stage help too."""
    kernels = [block.kernel == 3 for stage in subnet.stages for block in stage]
    widths = [block.width / 192 for block in subnet.stages[-1]]
    return float(0.25 * np.log10(subnet.network(10).macs / 1e6) + 0.15 * np.mean(kernels) + 0.3 * np.mean(widths))


def propose(study, top1=accuracy):
    sampler = study.sampler
    trial = study.ask(dict(sampler.domain.distributions))
    subnet = sampler.domain.subnet(trial.params)
    values = {TOP1: top1(subnet), **sampler.costs.all_of(sampler.goal.costs, subnet)}
    for constraint in sampler.goal.constraints:
        trial.set_constraint(str(constraint), constraint.violation(values[constraint.metric]))
    trial.set_user_attr("metrics", {str(metric): value for metric, value in values.items()})
    study.tell(trial, [values[metric] for metric in sampler.goal.objectives])
    return subnet, values


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
    space = Space.decode("tiny32-1151-0102")
    domain = SubnetDomain(space)
    a, b = (domain.params(random_subnet(space, rng)) for _ in range(2))
    mutant, mixed = domain.mutated(a, rng), domain.crossed(a, b, rng)
    for child in (mutant, mixed, domain.leaning(rng)):
        assert domain.subnet(child).is_legal
        assert domain.params(domain.subnet(child)) == child, "absent blocks keep their smallest values"
    assert all(mixed[f"{s}.depth"] in (a[f"{s}.depth"], b[f"{s}.depth"]) for s in range(5))
    assert mixed["resolution"] in (a["resolution"], b["resolution"])


def test_mutations_change_some_genes_but_not_all(space):
    domain, rng = SubnetDomain(space), np.random.default_rng(0)
    params = domain.params(extreme_subnet(space, largest=True))
    mutants = [domain.mutated(params, rng) for _ in range(50)]
    changed = [sum(mutant[name] != params[name] for name in params) for mutant in mutants]
    assert 0 < np.mean(changed) < 0.6 * len(params)
    assert len({identity(mutant) for mutant in mutants}) > 45


def test_equal_subnets_are_equal_parameters_whatever_stands_in_absent_blocks(space):
    domain = SubnetDomain(space)
    shallow = domain.smallest()
    scribbled = {**shallow, "2.2.kernel": 5}
    assert domain.subnet(scribbled) == domain.subnet(shallow)
    assert domain.canonical(scribbled) == shallow


def test_leaning_subnets_are_of_every_size(space, costs):
    domain, rng = SubnetDomain(space), np.random.default_rng(0)
    ends = costs.of(MACS, [extreme_subnet(space, largest=largest) for largest in (False, True)])

    def widest(draw):
        sizes = costs.of(MACS, [domain.subnet(draw(rng)) for _ in range(100)])
        return (np.log(sizes.max() / sizes.min())) / np.log(ends[1] / ends[0])

    assert widest(domain.leaning) > 0.85
    assert widest(domain.leaning) > 1.3 * widest(domain.random)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_proposals_keep_to_the_constraints_and_repeat_nothing(algorithm, costs, latency, budgets_ms):
    goal = Goal((TOP1, latency), (bound("params<=1M"), bound("memory<=80kB"), bound("top1>=0.6")))
    study = study_of(sampler_of(algorithm, costs, latency, budgets_ms[1:], goal))
    found = [propose(study) for _ in range(WARM_UP + BATCH + 2)]
    assert all(met(goal.cost_constraints, values) for _, values in found)
    assert len({subnet for subnet, _ in found}) == len(found)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_proposals_depend_on_the_study_and_the_seed_alone(algorithm, costs, latency, budgets_ms):
    """Whoever goes on with a study, even behind trials that were given up, proposes what the first one would have."""
    count, proposals = WARM_UP + BATCH + 2, []
    for stops in ((), (7, WARM_UP + 3)):
        study = study_of(sampler_of(algorithm, costs, latency, budgets_ms))
        found = []
        for i in range(count):
            if i in stops:
                given_up = study.ask(dict(study.sampler.domain.distributions))
                study.tell(given_up, state=TrialState.FAIL)
                if i == 7:  # as after `kill -9`: what was interrupted is queued again
                    study.enqueue_trial(given_up.params)
                study.sampler = sampler_of(algorithm, costs, latency, budgets_ms)
            found.append(propose(study)[0])
        proposals.append(found)
    assert proposals[0] == proposals[1]
    study = study_of(sampler_of(algorithm, costs, latency, budgets_ms, seed=1))
    assert [propose(study)[0] for _ in range(4)] != proposals[0][:4]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_workers_that_share_a_study_propose_different_subnets(algorithm, costs, latency, budgets_ms):
    study = study_of(sampler_of(algorithm, costs, latency, budgets_ms))
    for _ in range(WARM_UP):
        propose(study)
    asked = [study.ask(dict(study.sampler.domain.distributions)) for _ in range(4)]
    assert len({identity(trial.params) for trial in asked}) == 4


@pytest.mark.parametrize("algorithm", ["nsga2", "guided", "random"])
def test_constraints_that_nothing_meets_are_named(algorithm, costs, monkeypatch):
    monkeypatch.setattr("milliseek.nas.search.subnet_sampler.SubnetSampler.CHUNKS", (16,))
    goal = replace(GOAL, constraints=(bound("macs<=1k"),))
    with pytest.raises(InvalidInput, match=r"macs<=1000\.0") as caught:
        propose(study_of(make_sampler(algorithm, costs, goal)))
    assert "its smallest has macs" in caught.value.message


@pytest.mark.parametrize("algorithm", ["nsga2", "guided", "random"])
def test_constraints_that_few_meet_are_met(algorithm, space, costs):
    least = costs.of(MACS, [extreme_subnet(space, largest=False)])[0]
    goal = replace(GOAL, constraints=(bound(f"macs<={1.02 * least}"),))
    study = study_of(make_sampler(algorithm, costs, goal))
    found = [propose(study)[1][MACS] for _ in range(3)]
    assert max(found) <= 1.02 * least


@pytest.mark.parametrize("algorithm", ["nsga2", "guided"])
def test_they_dominate_more_than_chance_does(algorithm, costs):
    """With as many evaluations; by how much on a trained supernet is for the benchmark to say."""

    def volume(name):
        study = study_of(make_sampler(name, costs, GOAL))
        for _ in range(60):
            propose(study)
        return hypervolumes(study, GOAL, {TOP1: 0.3, MACS: 4e7})[-1]

    assert volume(algorithm) > 1.03 * volume("random")


def test_guided_search_finds_the_best_of_one_objective(costs):
    goal = Goal((TOP1,), (bound("macs<=8M"),))

    def best(name):
        study = study_of(make_sampler(name, costs, goal))
        return max(propose(study)[1][TOP1] for _ in range(48))

    assert best("guided") > best("random")


def test_guided_search_looks_where_a_bound_on_top1_is_met(costs):
    """The cheapest subnet that is good enough: most later proposals are near the bound."""
    goal = Goal((MACS,), (bound("top1>=0.6"),))
    study = study_of(make_sampler("guided", costs, goal))
    found = [propose(study)[1] for _ in range(48)]
    good_enough = [values[MACS] for values in found if values[TOP1] >= 0.6]
    early = [values[MACS] for values in found[:WARM_UP] if values[TOP1] >= 0.6]
    assert min(good_enough) < 0.8 * min(early)


def test_nsga2_prefers_those_that_meet_a_bound_on_top1(costs):
    goal = replace(GOAL, constraints=(bound("top1>=0.68"),))
    study = study_of(NSGA2(costs, goal, population=8))
    found = [propose(study)[1][TOP1] for _ in range(48)]
    assert np.mean(np.array(found[-16:]) >= 0.68) > np.mean(np.array(found[:8]) >= 0.68) + 0.2


def test_nsga2_has_generations(costs):
    study = study_of(NSGA2(costs, GOAL, population=4))
    for _ in range(10):
        propose(study)
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in finished_trials(study)]
    assert generations == [0] * 4 + [1] * 4 + [2] * 2


@pytest.fixture
def few_rounds(monkeypatch):
    """Where nothing fits, it gives up looking sooner."""
    monkeypatch.setattr(BudgetEvolution, "ROUNDS", 2)


def evolution(costs, latency, budgets_ms):
    return study_of(BudgetEvolution(costs, Goal((TOP1, latency)), latency, budgets_ms, warm_up=3))


def latency_of(costs, latency, *, largest):
    return float(costs.of(latency, [extreme_subnet(costs.space, largest=largest)])[0])


def test_evolution_fits_the_budgets_in_turn(costs, latency, budgets_ms):
    study = evolution(costs, latency, budgets_ms)
    for budget_ms in itertools.islice(itertools.cycle(budgets_ms), 24):
        _, values = propose(study)
        assert WINDOW * budget_ms <= values[latency] <= budget_ms


def test_a_window_with_nothing_in_it_gives_the_slowest_that_fits(costs, latency, few_rounds):
    largest_ms = latency_of(costs, latency, largest=True)
    _, values = propose(evolution(costs, latency, [2 * largest_ms]))
    assert 0.3 * largest_ms < values[latency] <= largest_ms


def test_an_impossible_budget_names_the_fastest(costs, latency, few_rounds):
    fastest_ms = latency_of(costs, latency, largest=False)
    with pytest.raises(InvalidInput, match=f"{fastest_ms:.3g} ms") as caught:
        propose(evolution(costs, latency, [0.9 * fastest_ms]))
    assert costs.space.encoding in caught.value.message
    assert "budget" in caught.value.remedy


def test_a_budget_that_only_the_smallest_meets(costs, latency, few_rounds):
    smallest_ms = latency_of(costs, latency, largest=False)
    found, _ = propose(evolution(costs, latency, [1.0001 * smallest_ms]))
    assert found == extreme_subnet(costs.space, largest=False)


def test_breeding_improves_on_random_subnets(costs, latency, budgets_ms):
    """Among equally slow subnets the score favours one resolution, which only the elite can tell."""

    def score(subnet):
        kernels = [block.kernel for stage in subnet.stages for block in stage]
        return float(np.mean([kernel == 3 for kernel in kernels])) + (subnet.resolution == 32)

    study = evolution(costs, latency, [budgets_ms[1]])
    scores = [propose(study, score)[1][TOP1] for _ in range(40)]
    assert np.mean(scores[-15:]) > np.mean(scores[:10])
    assert max(scores) > max(scores[:3])


def test_evolution_is_for_budgets(costs, latency):
    for goal, budgets_ms in ((GOAL, ()), (Goal((latency,), (bound("top1>=0.5"),)), (1.0,))):
        with pytest.raises(InvalidInput, match="within latency budgets"):
            make_sampler("evolution", costs, goal, budgets_ms, latency)


def test_the_lookup_of_a_replaced_table_is_used(space, lookup, costs, latency, budgets_ms):
    doubled = LatencyLookup(replace(lookup.table, latency_ms=2 * lookup.table.latency_ms))
    study = evolution(SubnetCosts(space, {latency.target: doubled}, 10), latency, [budgets_ms[1]])
    found, _ = propose(study)
    assert costs.of(latency, [found])[0] <= 0.5 * budgets_ms[1]


def test_names_of_algorithms(costs, latency, budgets_ms):
    kinds = [type(sampler_of(algorithm, costs, latency, budgets_ms)) for algorithm in ALGORITHMS]
    assert kinds == [BudgetEvolution, NSGA2, GuidedSearch, RandomSubnets]
