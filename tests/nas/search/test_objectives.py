"""What users ask for: metrics, bounds with units, and what a goal makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.devices.facts import local_facts
from milliseek.errors import InvalidInput
from milliseek.nas.search.objectives import (
    TOP1,
    Constraint,
    Goal,
    Metric,
    met,
    parse_constraint,
    parse_goal,
    parse_metric,
)

HERE = f"{local_facts().id}/onnxruntime/int8"
BOARD = "board/litert/int8/4t@0-3"
MACS, SIZE = Metric("macs"), Metric("size")


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("top1", TOP1),
        ("macs", MACS),
        ("latency", Metric("latency", HERE)),
        ("latency:local/onnxruntime/int8/1t", Metric("latency", HERE)),
        (f"latency:{BOARD}", Metric("latency", BOARD)),
    ],
)
def test_metrics(text, metric):
    assert parse_metric(text, HERE) == metric
    assert parse_metric(str(metric), HERE) == metric


@pytest.mark.parametrize(
    ("text", "metric", "relation", "bound"),
    [
        ("macs<=50M", MACS, "<=", 50e6),
        ("params <= 1.5 m", Metric("params"), "<=", 1.5e6),
        ("latency<=0.5", Metric("latency", HERE), "<=", 0.5),
        ("latency<=500us", Metric("latency", HERE), "<=", 0.5),
        (f"latency:{BOARD}<=2ms", Metric("latency", BOARD), "<=", 2.0),
        ("top1>=90%", TOP1, ">=", 0.9),
        ("size<=500kB", SIZE, "<=", 500_000),
        ("memory<=64KiB", Metric("memory"), "<=", 65_536),
        ("macs>=1e6", MACS, ">=", 1e6),
    ],
)
def test_constraints(text, metric, relation, bound):
    constraint = parse_constraint(text, HERE)
    assert (constraint.metric, constraint.relation) == (metric, relation)
    assert constraint.bound == pytest.approx(bound)
    assert parse_constraint(str(constraint), HERE) == constraint


@given(st.floats(1e-9, 1e12), st.sampled_from(["<=", ">="]))
def test_a_printed_constraint_is_read_back(bound, relation):
    constraint = Constraint(SIZE, relation, bound)
    assert parse_constraint(str(constraint), HERE) == constraint


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("speed<=3", "'speed' is no metric"),
        ("macs:here<=3", "'macs:here' is no metric"),
        ("macs=50M", "is no constraint"),
        ("macs<=many", "is no constraint"),
        ("macs<=5ms", "unknown unit 'ms'"),
        ("latency:nowhere<=1", "'nowhere' is not a target"),
    ],
)
def test_what_is_no_constraint_is_named(text, about):
    with pytest.raises(InvalidInput, match=about) as caught:
        parse_constraint(text, HERE)
    assert caught.value.remedy


def test_a_goal_knows_what_has_to_be_found_out():
    goal = parse_goal(["top1", "macs"], ["size<=1MB", "size<=500kB", "top1>=50%"], HERE)
    assert goal.metrics == (TOP1, MACS, SIZE)
    assert goal.costs == (MACS, SIZE)
    assert goal.directions == ["maximize", "minimize"]
    assert goal.upper_bound(SIZE) == 5e5
    assert goal.upper_bound(MACS) == float("inf")
    assert len(goal.cost_constraints) == 2
    assert goal.losses({TOP1: 0.7, MACS: 3.0}) == [-0.7, 3.0]


def test_values_meet_all_constraints_or_miss_one():
    goal = parse_goal(["top1"], ["size<=1MB", "top1>=50%"], HERE)
    assert met(goal.constraints, {TOP1: 0.5, SIZE: 1e6})
    assert not met(goal.constraints, {TOP1: 0.49, SIZE: 1e6})
    assert not met(goal.constraints, {TOP1: 0.5, SIZE: 1e6 + 1})


def test_a_violation_is_a_share_of_the_bound():
    assert parse_constraint("size<=1MB", HERE).violation(1.5e6) == pytest.approx(0.5)
    assert parse_constraint("top1>=50%", HERE).violation(0.4) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("objectives", "constraints", "about"),
    [
        (["macs", "latency"], [], "how good"),
        ([], [], "how good"),
        (["top1", "latency", "latency:local/onnxruntime/int8"], [], "twice"),
    ],
)
def test_goals_that_lead_nowhere(objectives, constraints, about):
    with pytest.raises(InvalidInput, match=about):
        parse_goal(objectives, constraints, HERE)


def test_top1_may_be_a_bound_alone():
    assert parse_goal(["latency"], ["top1>=90%"], HERE).metrics == (Metric("latency", HERE), TOP1)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (TOP1, 0.9123, "91.2 %"),
        (Metric("latency", HERE), 0.4567, "0.457 ms"),
        (MACS, 1_234_567, "1.23 M"),
        (SIZE, 999, "999 B"),
        (SIZE, 45_600, "45.6 kB"),
        (MACS, 12, "12"),
    ],
)
def test_values_have_units(metric, value, text):
    assert metric.shown(value) == text


def test_goals_are_values():
    assert Goal((TOP1, MACS)) == Goal((TOP1, MACS))
