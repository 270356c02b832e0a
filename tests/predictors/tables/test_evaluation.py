"""How right a predictor is on a table, and how right one is that never saw a part of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.kernels.operators.graph_json import read_graph
from milliseek.predictors.models.predictor import Predictor
from milliseek.predictors.tables.evaluation import (
    FOLDS,
    TableRow,
    by_family,
    evaluate_split,
    figures,
    point_figures,
    predict_table,
)
from milliseek.predictors.tables.latency_rows import Fields
from milliseek.predictors.tables.sums import TimedNetwork, fit_sums

PHONE = Fields("latency_ms.phone")


@pytest.fixture(scope="module")
def networks(phones: Any) -> list[TimedNetwork]:
    return [
        TimedNetwork.of(row["id"], row["family"], read_graph(row["graph"]), row["latency_ms"]["phone"], ("operators",))
        for row in phones.rows()
    ]


def row(predicted_ms: float, measured_ms: float, family: str = "a", half: float = 0.1) -> TableRow:
    interval = (predicted_ms * (1 - half), predicted_ms * (1 + half))
    return TableRow("net", family, predicted_ms, interval, measured_ms, 0.0)


def test_figures_by_hand() -> None:
    rows = [row(104, 100), row(216, 200), row(345, 300), row(260, 400)]
    found = figures(rows)
    assert found == {
        "mape": pytest.approx((0.04 + 0.08 + 0.15 + 0.35) / 4),
        "within_5": 0.25,
        "within_10": 0.5,
        "within_20": 0.75,
        "rmspe": pytest.approx(np.sqrt((0.04**2 + 0.08**2 + 0.15**2 + 0.35**2) / 4)),
        "spearman": pytest.approx(0.8),
        "kendall": pytest.approx(2 / 3),
        "coverage": 0.5,
    }
    assert [each.error for each in rows[:2]] == pytest.approx([0.04, 0.08])


def test_ranks_need_three_rows_that_differ() -> None:
    assert "spearman" not in figures([row(1, 1), row(2, 2)])
    assert "kendall" not in figures([row(1, 1), row(1, 2), row(1, 3)])
    assert figures([row(1, 3), row(2, 2), row(3, 1)])["spearman"] == pytest.approx(-1)


def test_families_apart() -> None:
    found = by_family([row(1, 1, "b"), row(2, 1, "a"), row(1, 1, "b")])
    assert list(found) == ["a", "b"]
    assert [found[name]["n"] for name in found] == [1, 2]
    assert [found[name]["within_5"] for name in found] == [0, 1]


@given(st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=20))
def test_figures_are_shares_and_ranks(pairs: list[tuple[float, float]]) -> None:
    found = point_figures(np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]))
    assert 0 <= found["within_5"] <= found["within_10"] <= found["within_20"] <= 1
    assert 0 <= found["mape"] <= found["rmspe"] * (1 + 1e-9)
    assert all(-1 - 1e-9 <= found[rank] <= 1 + 1e-9 for rank in ("spearman", "kendall") if rank in found)


def test_a_predictor_on_a_table(networks: list[TimedNetwork], phones: Any, tmp_path: Path) -> None:
    others = [network for network in networks if network.family != "shuffle"]
    fit = fit_sums(others)
    predictor = Predictor("phone/imported/fp32", "imported", fit.model, fit.correction)
    path = phones.write(tmp_path / "phones.jsonl", phones.rows())
    rows = predict_table(predictor, [path], PHONE)
    assert [each.name for each in rows] == [network.name for network in networks]
    assert [each.measured_ms for each in rows] == [network.latency_ms for network in networks]
    found = by_family(rows)
    assert set(found) == {"plain", "residual", "mobile", "shuffle"}
    assert found["plain"]["within_5"] == 1
    # Nobody else joins tensors, which is said.
    assert [each.family for each in rows if each.uncovered] == ["shuffle"] * 15


def test_a_table_without_latencies_there(networks: list[TimedNetwork], phones: Any, tmp_path: Path) -> None:
    fit = fit_sums(networks)
    predictor = Predictor("phone/imported/fp32", "imported", fit.model, fit.correction)
    path = phones.write(tmp_path / "phones.jsonl", phones.rows())
    with pytest.raises(InvalidInput, match="no network with a latency"):
        predict_table(predictor, [path], Fields("latency_ms.tablet"))
    bad = [{"graph": [{"op": "lstm", "inp": [], "out": [1]}], "latency_ms": {"phone": 1}}]
    with pytest.raises(InvalidInput, match=r"bad\.jsonl:1: The graph has unknown operators: lstm"):
        predict_table(predictor, [phones.write(tmp_path / "bad.jsonl", bad)], PHONE)


@pytest.mark.parametrize("split", ["family", "random"])
def test_parts_left_out_in_turn(networks: list[TimedNetwork], split: Any) -> None:
    told: list[str] = []
    rows, means = evaluate_split(networks, split, on_progress=lambda phase, *_: told.append(phase))
    assert sorted(each.name for each in rows) == sorted(network.name for network in networks)
    assert set(means) == {"mean", "linear", "macs"}
    assert means["mean"]["within_5"] > 0.9
    assert means["mean"]["mape"] < means["macs"]["mape"]
    assert means["mean"]["mape"] <= means["linear"]["mape"]
    assert {"within_5", "within_10", "within_20", "rmspe", "spearman", "kendall"} <= set(means["macs"])
    assert "coverage" in means["mean"]
    assert len(told) == (4 if split == "family" else FOLDS)
    if split == "family":
        assert told[0] == "leaving out: plain"
        families = by_family(rows)
        assert means["mean"]["mape"] == pytest.approx(np.mean([found["mape"] for found in families.values()]))


def test_what_is_left_out_does_not_leak(networks: list[TimedNetwork]) -> None:
    """Latencies of the last family changed: it is predicted as before, the others are not."""
    changed = [
        replace(network, latency_ms=network.latency_ms * (3 if network.family == "mobile" else 1))
        for network in networks
    ]
    before, after = (
        {each.name: each.predicted_ms for each in evaluate_split(those, "family")[0]} for those in (networks, changed)
    )
    same = {name for name in before if after[name] == pytest.approx(before[name], rel=1e-9)}
    assert {name for name in before if name.startswith("mobile")} == same


def test_a_single_family_cannot_be_left_out(networks: list[TimedNetwork]) -> None:
    plain = [network for network in networks if network.family == "plain"]
    with pytest.raises(InvalidInput, match="single family") as caught:
        evaluate_split(plain, "family")
    assert "--split random" in caught.value.remedy
    assert len(evaluate_split(plain, "random")[0]) == len(plain)
