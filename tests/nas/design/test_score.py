"""The Q-T score against every subnet that the quality table knows, one by one."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from milliseek.errors import InvalidInput, NotReady
from milliseek.nas.design.exact_score import ExactScorer
from milliseek.nas.design.fastest import check_budgets, check_constraints, fastest_ms, fastest_network_ms
from milliseek.nas.design.score import FEASIBLE_SHARE, PENALTY_EXPONENT, MonteCarloScorer
from milliseek.nas.design.score_tables import MeasuredTables
from milliseek.nas.quality.quality_rows import QualityRow
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.results import LatencyTable
from milliseek.spaces.blocks import ONNXW_BLOCKS, BlockChoice
from milliseek.spaces.codes import block_keys, encode_genes
from milliseek.spaces.hyperspace import Hyperspace, Stage
from milliseek.spaces.space import Space, Subnet

MINI = Hyperspace(
    name="mini",
    resolutions=(16, 24),
    blocks=ONNXW_BLOCKS[:2],
    stem_widths=(8, 16),
    stem_stride=2,
    stages=(
        Stage((8, 16), (1, 2), 1),
        Stage((16, 24, 32), (1, 2), 2, window=2),
        Stage((32, 48), (1, 2), 2, window=2),
    ),
    head_width=32,
)
ROWS = 4
SPACE = Space(MINI, (1, 1), (1, 0))


@pytest.fixture(scope="module")
def lookup():
    """Every block costs what it likes: widths that enter a stage matter as much as its own."""
    keys = np.array(block_keys(MINI), np.int32)
    latency_ms = np.random.default_rng(0).uniform(0.1, 1.0, len(keys))
    return LatencyLookup(LatencyTable("mini", "here/onnxruntime/int8", "p@1", keys, latency_ms, 0.25, (0.1, 0.1)))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    found = []
    for stage, block in product(range(2), range(2)):
        block_type = MINI.blocks[block]
        for (window, widths), resolution in product(enumerate(MINI.searched[stage].windows), MINI.resolutions):
            for i in range(ROWS):
                choices = tuple(
                    BlockChoice(
                        int(rng.choice(widths)),
                        int(rng.choice(block_type.kernels)),
                        float(rng.choice(block_type.expands)),
                    )
                    for _ in range(1 + i % 2)
                )
                found.append(QualityRow(stage, block, window, resolution, choices, float(rng.uniform(0.1, 0.6))))
    return found


def exact(rows, lookup, constraints):
    return ExactScorer(MeasuredTables(MINI, rows, lookup), constraints)


def monte_carlo(rows, lookup, constraints, **options):
    return MonteCarloScorer(MeasuredTables(MINI, rows, lookup), constraints, **options)


KINDS = pytest.mark.parametrize("scorer", [exact, monte_carlo])


def lowest(weights, nsr, mass=5e-4):
    """Mean NSR of the lowest-NSR `mass`."""
    order = np.argsort(nsr)
    taken = np.diff(np.minimum(np.cumsum(weights[order]), mass), prepend=0)
    return (taken * nsr[order]).sum() / taken.sum()


def everything(space, rows, lookup):
    """(weight, latency_ms, nsr) of every subnet, whole networks looked up as such; the weights add up to 1."""
    fixed = MINI.stages[0]
    kernels, (expand,) = MINI.blocks[0].kernels, MINI.blocks[0].expands
    singles = [BlockChoice(width, kernel, expand) for width in fixed.widths for kernel in kernels]
    firsts = [(c, depth) for depth in fixed.depths for c in product(singles, repeat=depth)]
    subnets, weights, nsr = [], [], []
    for resolution, stem, (first, depth) in product(MINI.resolutions, MINI.stem_widths, firsts):
        cells = [
            [r for r in rows if (r.stage, r.block, r.window, r.resolution) == (s, b, w, resolution)]
            for s, (b, w) in enumerate(zip(space.blocks, space.windows, strict=True))
        ]
        for chosen in product(*cells):
            subnets.append(Subnet(space, resolution, stem, (first, *(row.choices for row in chosen))))
            weights.append(1 / 2 / 2 / 2 / len(singles) ** depth / ROWS**2)
            nsr.append(sum(row.nsr for row in chosen))
    assert sum(weights) == pytest.approx(1)
    return np.array(weights), lookup.subnets_ms(space, encode_genes(subnets)), np.array(nsr)


SPACES = pytest.mark.parametrize(
    "space", [SPACE, Space(MINI, (0, 1), (0, 0)), Space(MINI, (1, 0), (1, 0))], ids=lambda space: space.encoding
)


@SPACES
@pytest.mark.parametrize("share", [0.002, 0.02, 0.3, 0.9])
def test_the_exact_score_is_that_of_counting_every_subnet(space, share, rows, lookup):
    weights, latency_ms, nsr = everything(space, rows, lookup)
    constraint_ms = float(np.quantile(latency_ms, share))
    result = exact(rows, lookup, [constraint_ms]).score(space)
    # In a table of so few rows single subnets count, and those at the constraint are on both sides of it.
    fewer, more = (latency_ms <= constraint_ms * factor for factor in (0.998, 1.002))
    assert weights[fewer].sum() - 1e-6 <= result.p[0] <= weights[more].sum() + 1e-6
    fewer, more = (latency_ms <= constraint_ms * factor for factor in (0.96, 1.04))
    assert result.quality[0] >= lowest(weights[more], nsr[more]) - 1e-3
    if fewer.any():
        assert result.quality[0] <= lowest(weights[fewer], nsr[fewer]) + 1e-3
    penalty = max(1, (FEASIBLE_SHARE / result.p[0]) ** PENALTY_EXPONENT)
    assert result.score == pytest.approx(1 / (penalty * result.quality[0]))
    assert (penalty > 1) == (result.p[0] < FEASIBLE_SHARE)


@SPACES
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_monte_carlo_agrees_with_counting_every_subnet(space, share, rows, lookup):
    weights, latency_ms, nsr = everything(space, rows, lookup)
    constraint_ms = float(np.quantile(latency_ms, share))
    feasible = latency_ms <= constraint_ms
    result = monte_carlo(rows, lookup, [constraint_ms]).score(space)
    assert result.p[0] == pytest.approx(weights[feasible].sum(), abs=0.012)
    assert nsr[feasible].min() - 1e-9 <= result.quality[0]
    assert result.quality[0] == pytest.approx(lowest(weights[feasible], nsr[feasible]), abs=0.02)


@KINDS
def test_constraints_add_up(scorer, rows, lookup):
    _, latency_ms, _ = everything(SPACE, rows, lookup)
    tight, loose = np.quantile(latency_ms, [0.2, 0.8])
    alone = [scorer(rows, lookup, [c]).score(SPACE) for c in (tight, loose)]
    both = scorer(rows, lookup, [tight, loose]).score(SPACE)
    assert both.score == pytest.approx(alone[0].score + alone[1].score, rel=0.04), "other bins"
    assert both.p == pytest.approx((alone[0].p[0], alone[1].p[0]), abs=0.01)
    assert both.p[0] < both.p[1]
    assert both.quality[0] >= both.quality[1] - 0.01


@KINDS
def test_a_space_with_nothing_feasible_scores_nothing(scorer, rows, lookup):
    _, latency_ms, _ = everything(SPACE, rows, lookup)
    result = scorer(rows, lookup, [0.9 * latency_ms.min()]).score(SPACE)
    assert (result.score, result.p, result.quality) == (0.0, (0.0,), (float("inf"),))


@KINDS
def test_everything_is_feasible_where_time_is_plenty(scorer, rows, lookup):
    result = scorer(rows, lookup, [1e3]).score(SPACE)
    assert result.p == pytest.approx((1.0,))
    assert result.score == pytest.approx(1 / result.quality[0]), "no penalty"


@KINDS
def test_lower_noise_is_a_better_score(scorer, rows, lookup):
    _, latency_ms, _ = everything(SPACE, rows, lookup)
    constraint = [float(np.median(latency_ms))]
    quieter = [replace(row, nsr=row.nsr / 2) for row in rows]
    noisy, quiet = (scorer(table, lookup, constraint).score(SPACE) for table in (rows, quieter))
    assert quiet.score == pytest.approx(2 * noisy.score)
    assert quiet.p == noisy.p


@KINDS
def test_faster_blocks_make_more_subnets_feasible(scorer, rows, lookup):
    _, latency_ms, _ = everything(SPACE, rows, lookup)
    faster = LatencyLookup(replace(lookup.table, latency_ms=lookup.table.latency_ms * 0.9))
    constraint = [float(np.median(latency_ms))]
    slow, fast = (scorer(rows, table, constraint).score(SPACE) for table in (lookup, faster))
    assert fast.p[0] > slow.p[0]
    assert fast.score >= slow.score


def test_the_same_seed_gives_the_same_score(rows, lookup):
    scores = [monte_carlo(rows, lookup, [4.0], samples=500, seed=seed).score(SPACE) for seed in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


def test_transforms_that_do_not_fit_in_memory_are_made_again(rows, lookup, monkeypatch):
    kept = exact(rows, lookup, [4.0]).score(SPACE)
    monkeypatch.setattr("milliseek.nas.design.exact_score.MEMORY_BYTES", 1)
    assert exact(rows, lookup, [4.0]).score(SPACE) == kept


@KINDS
def test_a_gap_in_the_quality_table_is_named(scorer, rows, lookup):
    gappy = [row for row in rows if (row.stage, row.block, row.resolution) != (1, 1, 24)]
    with pytest.raises(NotReady, match="stage 2, block 1, window 0, resolution 24"):
        scorer(gappy, lookup, [4.0]).score(SPACE)


@pytest.mark.parametrize("constraints", [[], [0.0], [3.0, -1.0]])
def test_impossible_constraints(constraints, rows, lookup):
    with pytest.raises(InvalidInput, match="positive"):
        check_constraints(MeasuredTables(MINI, rows, lookup), constraints)


def test_a_constraint_that_nobody_can_meet_says_what_the_fastest_network_needs(rows, lookup):
    tables = MeasuredTables(MINI, rows, lookup)
    spaces = [
        Space(MINI, blocks, windows) for blocks in product(range(2), repeat=2) for windows in product((0, 1), (0,))
    ]
    fastest = min(everything(space, rows, lookup)[1].min() for space in spaces)
    assert fastest_ms(tables) == pytest.approx(fastest)
    assert fastest_network_ms(MINI, lookup) < fastest, "the rows are not all networks that there are"
    for check, subject in ((check_constraints, (tables,)), (check_budgets, (MINI, lookup))):
        with pytest.raises(InvalidInput, match=r"takes 0.5 ms or less: the fastest one needs \d"):
            check(*subject, [100.0, 0.5])
        check(*subject, [100.0])
