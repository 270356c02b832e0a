"""Spaces designed for one or several targets: from a quality table, with constraints for each, resumed by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from milliseek.db.engine import Database
from milliseek.errors import InvalidInput
from milliseek.nas.design import space_design
from milliseek.nas.design.score_tables import MeasuredTables
from milliseek.nas.design.scorers import SeveralTargets, make_scorer
from milliseek.nas.design.space_design import SpacePlan, best_space, design_space
from milliseek.nas.design.table_search import study_tables
from milliseek.nas.design.table_subnets import sampled_subnets
from milliseek.nas.pictures.data import digits
from milliseek.nas.quality.quality_filling import new_table
from milliseek.nas.quality.quality_rows import QualityRow, store_rows
from milliseek.nas.quality.quality_table import QualityPlan, hyperspace_row_id, read_table
from milliseek.nas.quality.teacher import Teacher
from milliseek.nas.training.budget import Budget
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.predictors.targets import device_target
from milliseek.results import LatencyTable
from milliseek.spaces.blocks import BlockChoice
from milliseek.spaces.codes import block_keys, encode_genes
from milliseek.spaces.hyperspace import TINY32
from milliseek.spaces.space import Space, random_space

PLAN = SpacePlan(Budget(steps=1), (Budget(steps=1), Budget(steps=1)), evaluations=30, population=12, tournament=6)
ASKED = QualityPlan(Budget(steps=1), Budget(steps=1), samples=4)
FAST_BLOCK = {"onnxruntime": 3, "litert": 1}
"""The block type that each runtime runs in no time."""


class Service:
    """Latency tables on which one block type is nearly free; the newest predictors are version 1, if none is asked."""

    def __init__(self, newest=1):
        self.newest = newest

    def latency_table(self, space, target):
        target, _, version = target.partition("@")
        keys = np.array(block_keys(TINY32), np.int32)
        runtime = next(name for name in FAST_BLOCK if name in target)
        fast = keys[:, 2] == FAST_BLOCK[runtime]
        latency_ms = np.where(fast, 0.01, 0.2) * np.random.default_rng(1).uniform(0.5, 1.5, len(keys))
        return LatencyTable(space, target, f"{target}@{version or self.newest}", keys, latency_ms, 0.0, (0.1, 0.1))


@pytest.fixture(scope="module")
def pictures():
    torch.set_num_threads(1)
    return digits()


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield opened
    opened.close()


@pytest.fixture
def targets(database):
    local = device_target(database, "local/onnxruntime/int8")
    return [local, replace(local, target=replace(local.target, runtime="litert"))]


def made_up_rows():
    """Every block type is as good as the others."""
    rng, rows = np.random.default_rng(0), []
    for s, stage in enumerate(TINY32.searched):
        for b, block in enumerate(TINY32.blocks):
            for w, widths in enumerate(stage.windows):
                for resolution in TINY32.resolutions:
                    for i in range(4):
                        choice = BlockChoice(int(widths[i % len(widths)]), block.kernels[i % 2], block.expands[0])
                        sub_stage = (choice,) * (1 + i // 2)
                        rows.append(QualityRow(s, b, w, resolution, sub_stage, float(rng.uniform(0.1, 0.3))))
    return rows


@pytest.fixture
def table(database, pictures):
    made = new_table(database, TINY32, Teacher(TINY32, 10).eval(), pictures, 0.5, ASKED)
    store_rows(database, hyperspace_row_id(database, TINY32), made.sha256, made_up_rows())
    return made


def designed(database, targets, pictures, study, table=None, constraints_ms=None, plan=PLAN, newest=1):
    return design_space(database, Service(newest), targets, TINY32, pictures, study, plan, constraints_ms, table)


def blocks(found, digit):
    """How many stages of the winner have this block type."""
    return best_space(found.ranking).blocks.count(digit)


def test_each_target_gets_its_blocks_and_both_together_some_of_each(database, targets, pictures, table):
    onnx, lite = ([target] for target in targets)
    limits = [[1.0, 0.8]]
    of_onnx, of_lite = (
        designed(database, of, pictures, name, table, limits) for of, name in ((onnx, "o"), (lite, "l"))
    )
    assert blocks(of_onnx, FAST_BLOCK["onnxruntime"]) > blocks(of_onnx, FAST_BLOCK["litert"])
    assert blocks(of_lite, FAST_BLOCK["litert"]) > blocks(of_lite, FAST_BLOCK["onnxruntime"])

    both = designed(database, targets, pictures, "both", table, [[1.0, 0.8], [0.9]])
    assert both.constraints_ms == {targets[0].name: (1.0, 0.8), targets[1].name: (0.9,)}
    best = both.ranking[0]
    assert len(best.p) == len(best.quality) == 3
    rows = made_up_rows()
    alone = []
    for target in targets:
        lookup = LatencyLookup(Service().latency_table("tiny32", target.name))
        tables = MeasuredTables(TINY32, rows, lookup, table.noise)
        limits_ms = both.constraints_ms[target.name]
        alone.append(make_scorer("exact", tables, limits_ms, samples=0, seed=0).score(best.space))
    assert best.score == pytest.approx(sum(score.score for score in alone))
    assert best.p == pytest.approx(alone[0].p + alone[1].p)


def test_a_design_is_resumed_with_what_it_was_begun_with(database, targets, pictures, table, monkeypatch):
    first = designed(database, targets, pictures, "study", table, plan=replace(PLAN, evaluations=12))
    assert [len(limits) for limits in first.constraints_ms.values()] == [3, 3], "some that its networks can meet"
    again = designed(database, targets, pictures, "study")
    assert again.constraints_ms == first.constraints_ms
    assert len(again.ranking) == 30

    found = study_tables(database, "study", Service().latency_table)
    assert found.constraints_ms == first.constraints_ms
    assert found.scorer().score(again.ranking[0].space).score == pytest.approx(again.ranking[0].score)
    only = found.only(targets[1].name)
    assert list(only.tables) == [targets[1].name] != list(found.only(None).tables)
    assert found.constrained([[1.0], [0.7, 2.0]]).scorer().constraints_ms == (1.0, 0.7, 2.0)
    with pytest.raises(InvalidInput, match="1 lists of constraints do not fit the study's targets"):
        found.constrained([[1.0]])
    with pytest.raises(InvalidInput, match="no target 'phone'"):
        found.only("phone")
    with pytest.raises(InvalidInput, match="was begun with other targets"):
        designed(database, targets[:1], pictures, "study")
    with pytest.raises(InvalidInput, match="was begun with other constraints"):
        designed(database, targets, pictures, "study", constraints_ms=[[1.0], [0.7, 2.0]])
    other = new_table(database, TINY32, Teacher(TINY32, 10).eval(), pictures, 0.6, ASKED)
    with pytest.raises(InvalidInput, match="was begun with other quality table"):
        designed(database, targets, pictures, "study", other)
    with pytest.raises(InvalidInput, match="was begun with other score"):
        designed(database, targets, pictures, "study", plan=replace(PLAN, score="montecarlo"))
    with pytest.raises(InvalidInput, match="A target is given twice"):
        designed(database, [targets[0], targets[0]], pictures, "study", table)


def test_a_resumed_design_keeps_its_predictors(database, targets, pictures, table, monkeypatch):
    asked = []
    monkeypatch.setattr(
        space_design, "LatencyLookup", lambda found: asked.append(found.predictor) or LatencyLookup(found)
    )
    names = [target.name for target in targets]
    designed(database, targets, pictures, "study", table, plan=replace(PLAN, evaluations=4))
    designed(database, targets, pictures, "study", table, plan=replace(PLAN, evaluations=8), newest=2)
    assert asked == [f"{name}@1" for name in names] * 2
    designed(database, targets, pictures, "new", table, plan=replace(PLAN, evaluations=4), newest=2)
    assert asked[4:] == [f"{name}@2" for name in names]


def test_a_small_quality_table_is_made_where_none_is_given(database, targets, pictures, monkeypatch):
    asked = []

    def filled(database, hyperspace, table, teacher, pictures, on_cell):
        asked.append(table)
        return made_up_rows()

    monkeypatch.setattr(space_design, "fill_table", filled)
    careful = [replace(targets[0], weight_bits=8), replace(targets[1], weight_bits=7)]
    for _ in range(2):
        designed(database, careful, pictures, "study", plan=replace(PLAN, evaluations=5))
    assert asked[0] == asked[1] == read_table(database, asked[0].sha256), "it is the study's"
    assert asked[0].plan.weight_bits == 7, "which the most careful of the targets needs"
    assert asked[0].noise[32] == 0 < asked[0].noise[24]


def test_constraints_and_table_must_fit(database, targets, pictures, table):
    with pytest.raises(InvalidInput, match="1 lists of constraints do not fit 2 targets"):
        designed(database, targets, pictures, "study", table, [[1.0]])
    with pytest.raises(InvalidInput, match=r"takes 0\.01 ms or less: the fastest one needs"):
        designed(database, targets, pictures, "study", table, [[1.0], [0.01]])
    with pytest.raises(InvalidInput, match="quality table is of 'tiny32' or of other data"):
        designed(database, targets, pictures, "study", replace(table, data="others"))


def test_one_target_needs_no_sum():
    scorer = object()
    assert SeveralTargets.of({"only": scorer}) is scorer


def test_networks_of_a_table_are_told_their_noise(pictures):
    noise = {24: 0.2, 28: 0.1, 32: 0.0}
    lookup = LatencyLookup(Service().latency_table("tiny32", "local/litert/int8"))
    tables = MeasuredTables(TINY32, made_up_rows(), lookup, noise)
    space = random_space(TINY32, np.random.default_rng(0))
    found = sampled_subnets(tables.quality, lookup, space, 1.5, 40, np.random.default_rng(1))
    assert len(found) == 40
    assert all(each.latency_ms <= 1.5 and each.subnet.is_legal for each in found)
    looked_up = lookup.subnets_ms(space, encode_genes([each.subnet for each in found]))
    assert [each.latency_ms for each in found] == pytest.approx(looked_up)
    known = {(r.stage, r.block, r.window, r.resolution, r.choices): r.nsr for r in made_up_rows()}
    for each in found:
        subnet = each.subnet
        nsr = noise[subnet.resolution]
        for s, (block, window) in enumerate(zip(space.blocks, space.windows, strict=True)):
            nsr += known.get((s, block, window, subnet.resolution, subnet.stages[s + 1]), np.nan)
        assert each.nsr == pytest.approx(nsr)
    with pytest.raises(InvalidInput, match="or less"):
        sampled_subnets(tables.quality, lookup, Space.decode("tiny32-0000-0000"), 1e-3, 1, np.random.default_rng(1))
