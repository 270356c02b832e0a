"""`search` and `report` as a user runs them, without a predictor: accuracy against multiply-accumulates."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Milliseek, answer

GOAL = ("--objective", "top1", "--objective", "macs", "--constraint", "params<=2M", "--algorithm", "guided")


@pytest.mark.slow
def test_a_supernet_is_searched_and_reported(milliseek: Milliseek, tmp_path: Path) -> None:
    answer(milliseek("supernet", "train", "tiny32-0000-0000", "--name", "tiny", "--budget", "3steps", "--json"))
    search = ("search", "tiny", *GOAL, "--study", "s", "--json")
    first = answer(milliseek(*search, "--evaluations", "2"))
    found = answer(milliseek(*search, "--evaluations", "3", "--confirm", "1"))
    assert (first["evaluations"], found["evaluations"], found["feasible"]) == (2, 3, 3)
    assert found["objectives"] == ["top1", "macs"]
    assert found["hypervolume"] >= first["hypervolume"]
    assert {each["id"] for each in found["subnets"]} <= {each["id"] for each in found["front"]}
    for each in found["front"]:
        assert each["metrics"].keys() == {"top1", "macs", "params"}
        assert each["metrics"]["params"] <= 2e6
        assert each["budget_ms"] is each["predicted_ms"] is None
    confirmed = found["confirmed"]
    assert confirmed
    assert all(each["measured_ms"] > 0 and each["target"].endswith("/onnxruntime/int8") for each in confirmed)

    page = tmp_path / "report.html"
    assert answer(milliseek("report", "s", "-o", page, "--json"))["size_bytes"] == page.stat().st_size
    for words, about in (
        (("search", "tiny"), "milliseek profile"),  # the target has no predictor
        ((*search[:-1], "--constraint", "size<=1MB"), "begun with other constraints"),
    ):
        result = milliseek(*words)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert about in " ".join(result.stderr.split())


def test_what_cannot_be_searched_is_one_sentence(milliseek: Milliseek) -> None:
    result = milliseek("search", "nothing", "--objective", "macs")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: Nothing says how good the networks shall be.")


def test_what_cannot_be_reported_is_one_sentence(milliseek: Milliseek) -> None:
    result = milliseek("report", "nothing", "-o", "x.html")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: There is no study 'nothing'")
