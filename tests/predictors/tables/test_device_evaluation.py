"""Each of three made-up devices in turn is the new one, of which a few networks are measured."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milliseek.errors import InvalidInput
from milliseek.predictors.tables.device_evaluation import _best_single, evaluate_devices
from milliseek.predictors.tables.latency_rows import Fields

DEVICES = ("phone", "tablet", "board")


def rows_of(phones: Any, *, short: int = 60) -> list[dict[str, Any]]:
    """The board is the phone at half its speed, but for two per cent; it has the first networks only."""
    rng = np.random.default_rng(0)
    found: list[dict[str, Any]] = phones.rows(("phone", "tablet"))[::2]
    for i, row in enumerate(found):
        if i < short:
            row["latency_ms"]["board"] = 2 * row["latency_ms"]["phone"] * float(np.exp(rng.normal(0, 0.02)))
    return found


def test_every_device_in_turn(phones: Any, tmp_path: Path) -> None:
    path = phones.write(tmp_path / "phones.jsonl", rows_of(phones, short=27))
    found = evaluate_devices([path], Fields("latency_ms"), count=8)
    assert list(found) == [f"latency_ms.{name}" for name in DEVICES]
    for methods in found.values():
        assert methods["ours"]["within_10"] > 0.8
        assert methods["ours"]["spearman"] > 0.95
    assert found["latency_ms.board"]["ours"]["coverage"] > 0.7
    # The phone predicts the board as well as anything can.
    assert found["latency_ms.board"]["best_single"]["mape"] < 0.03
    assert found["latency_ms.board"]["best_single"]["within_10"] == 1


def test_columns_of_a_csv(tmp_path: Path) -> None:
    """Networks as cells, because a CSV holds no graphs; every device has an own idea of a convolution."""
    operations = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3")
    rng = np.random.default_rng(1)
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("arch", *DEVICES))
        for _ in range(24):
            chosen = rng.integers(0, 3, 6)
            o = [operations[i] for i in chosen]
            cell = f"|{o[0]}~0|+|{o[1]}~0|{o[2]}~1|+|{o[3]}~0|{o[4]}~1|{o[5]}~2|"
            ones, threes = (int((chosen == i).sum()) for i in (1, 2))
            writer.writerow((cell, *(1 + cost * ones + 3 * cost * threes for cost in (0.5, 0.6, 1.4))))
    found = evaluate_devices([tmp_path / "cells.csv"], Fields(",".join(DEVICES)), count=8)
    assert list(found) == list(DEVICES)
    assert min(methods["ours"]["within_10"] for methods in found.values()) > 0.9


def test_too_little_to_learn_from(phones: Any, tmp_path: Path) -> None:
    path = phones.write(tmp_path / "phones.jsonl", rows_of(phones, short=15))
    with pytest.raises(InvalidInput, match="have 0 devices; 3 are needed"):
        evaluate_devices([path], Fields("latency_ms.phone"))
    with pytest.raises(InvalidInput, match="have 2 devices; 3 are needed"):
        evaluate_devices([path], Fields("latency_ms.phone,latency_ms.tablet"))
    with pytest.raises(InvalidInput, match=r"'latency_ms.board' has 15 networks; 20 are needed"):
        evaluate_devices([path], Fields("latency_ms"))


def test_the_best_single_device_need_not_have_all_networks() -> None:
    known_ms = np.array([[np.nan, np.nan, np.nan, 4.0], [1.0, 2.0, 5.0, 8.0], [3.0, 6.0, np.nan, 9.0]])
    scaled = _best_single(known_ms, np.array([0, 1, 2]), np.array([30.0, 60.0, 100.0]))
    np.testing.assert_allclose(scaled, [30, 60, np.nan, 90])
