"""`milliseek spaces` on tables that lie in a folder, with a hyperspace of one's own."""

import json
from itertools import product

import numpy as np
import pytest

from .conftest import answer

MINE = """
name: mine24
resolutions: [32, 64]
stem: {widths: [16], stride: 2}
blocks:
  - {type: mbv2, kernels: [3], expands: [4, 6]}
  - {type: mbv3, kernels: [3, 5], expands: [2]}
stages:
  0: {widths: [16], depths: [1], stride: 1, block: {type: separable, kernels: [3]}}
  1: {widths: [16, 24, 32], depths: [1, 2], stride: 2, window: 2}
  2: {widths: [32, 48], depths: [1, 2], stride: 2, window: 2}
head: {width: 64}
"""
SPACE = "onnxw-151122-023231"
SUBNET = (
    f"{SPACE}:d1#1#2#2#2#2#2#1_k3#3#3#3#3#3#3#3#3#3#3#3#3_w16#16#32#32#64#64#112#112#144#144#240#240#320"
    "_e0#0.5#4.0#4.0#1.0#1.0#4.0#4.0#4.0#4.0#4.0#4.0#4.0_r160"
)


@pytest.fixture
def tables(tmp_path):
    """A folder of tables; `mine.yaml` lies beside it."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "tables"
    folder.mkdir()
    for s, block, window in product((1, 2), range(2), range(2)):
        rows = [
            f"3#24#None,1x16x{hw}x{hw},{rng.uniform(0.1, 0.6):.4f},1.0,0.1,{rng.uniform(0.5, 3):.4f}"
            for hw in (16 // s, 32 // s)
            for _ in range(8)
        ]
        (folder / f"stage{s}_{block}_{window}.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "mine.yaml").write_text(MINE)
    return folder


def test_a_space_is_evolved_scored_and_drawn(milliseek, tables, tmp_path):
    options = ("--hyperspace", "mine.yaml", "--tables", tables, "--constraints", "3,4", "--json")
    result = milliseek("spaces", "evolve", *options, "--evaluations", "8", "--study", "mine")
    found = answer(result)
    assert {"study", "seconds_scoring", "seconds", "evaluations", "best"} <= found.keys()
    assert (found["study"], found["evaluations"], len(found["best"])) == ("mine", 8, 8)
    assert 0 < found["seconds_scoring"] <= found["seconds"]
    assert "no fixed_stage_ms.json beside the tables" in result.stderr
    scores = [each["score"] for each in found["best"]]
    assert scores == sorted(scores, reverse=True)
    assert all(len(each["p"]) == len(each["quality"]) == 2 for each in found["best"])

    again = answer(milliseek("spaces", "evolve", *options, "--evaluations", "8", "--study", "mine"))
    assert again["best"] == found["best"], "all is in the study"
    other = milliseek("spaces", "evolve", *options, "--evaluations", "8", "--study", "mine", "--score", "montecarlo")
    assert "begun with another score (exact)" in answer(other)["error"]["message"]

    best = found["best"][0]
    named = answer(milliseek("spaces", "score", best["space"], "mine24:mobilenetv3", "--study", "mine", "--json"))
    (first, handmade) = named["spaces"]
    assert first == {"name": best["space"], **best}
    assert handmade["space"].startswith("mine24-01-")
    assert handmade["score"] <= best["score"], "all eight spaces have been scored"
    sampled = milliseek("spaces", "score", best["space"], *options, "--score", "montecarlo", "--samples", "20000")
    assert answer(sampled)["spaces"][0]["score"] == pytest.approx(best["score"], rel=0.02)

    assert answer(milliseek("spaces", "plot", "mine", "-o", "mine.html", "--json")) == {
        "study": "mine",
        "path": "mine.html",
    }
    html = (tmp_path / "mine.html").read_text()
    for text in ("Score of each evaluated space", best["space"], "mobilenetv3 mine24-01-", "1 mbv3", "NSR"):
        assert text in html
    assert "resnet mine24" not in html, "this hyperspace has no such block"


def test_sizes(milliseek):
    subnet, space = (answer(milliseek("spaces", "count", name, "--json")) for name in (SUBNET, SPACE))
    assert subnet == {"encoding": SUBNET, "macs": 161_559_488, "params": 7_795_272}
    assert space["encoding"] == SPACE
    assert space["smallest"]["macs"] == subnet["macs"] < space["macs"] == space["largest"]["macs"]
    assert answer(milliseek("spaces", "count", SUBNET, SUBNET, "--json")) == {"counts": [subnet, subnet]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--constraints", "0.1"), "takes 0.1 ms or less: the fastest one needs"),
        (("--constraints", "3", "--fixed-ms", "32=1"), "no milliseconds at 64 pixels"),
        (("--constraints", "3", "--hyperspace", "gap.yaml"), "Stage 1 is missing"),
        (("--constraints", "3", "--tables", "empty"), "stage1_0_0.csv is empty"),
    ],
)
def test_bad_input_is_told(milliseek, tables, tmp_path, arguments, message):
    (tmp_path / "gap.yaml").write_text(MINE.replace("  1: {", "  3: {"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "stage1_0_0.csv").touch()
    result = milliseek("spaces", "evolve", "--hyperspace", "mine.yaml", "--tables", tables, "--json", *arguments)
    assert result.returncode == 1
    assert message in json.loads(result.stdout)["error"]["message"]


def test_tables_need_constraints_and_scores_need_tables(milliseek, tables):
    result = milliseek("spaces", "evolve", "--hyperspace", "mine.yaml", "--tables", tables)
    assert (result.returncode, "need --constraints" in result.stderr) == (2, True)
    result = milliseek("spaces", "score", "small32:resnet", "--json")
    assert "Give --study or --tables" in answer(result)["error"]["remedy"]
