from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest

from milliseek.errors import InvalidInput
from milliseek.nas.training import level_tables
from milliseek.nas.training.level_tables import LevelTables, leaning_subnet
from milliseek.nas.training.training_samplers import (
    ComplexityAwareSampler,
    Draw,
    PerformanceAwareSampler,
    SubnetSampler,
    make_sampler,
)
from milliseek.spaces.counting import count
from milliseek.spaces.space import Space, Subnet, extreme_subnet

SPACE = Space.decode("tiny32-1111-0000")
STEPS = 200


def macs(subnet: Subnet) -> float:
    return float(count(subnet).macs)


@pytest.fixture(autouse=True)
def _small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_tables, "POOL", 400)
    monkeypatch.setattr(level_tables, "PER_LEVEL", 30)


def test_uniform_draws_have_both_extremes_and_crowd_in_the_middle() -> None:
    smallest, largest = (extreme_subnet(SPACE, largest=largest) for largest in (False, True))
    sampler = make_sampler("uniform", SPACE, 2, 0, 10)
    made = [sampler.draw(step, 0) for step in range(50)]
    assert all(draw.teacher == largest and draw.students[-1] == smallest for draw in made)
    drawn = [macs(subnet) for draw in made for subnet in draw.students[:-1]]
    assert len(drawn) == 100
    assert min(drawn) > 2 * macs(smallest)
    assert max(drawn) < 0.8 * macs(largest)


def test_levels_reach_from_near_the_smallest_to_the_largest() -> None:
    tables = LevelTables.build(SPACE, 0)
    smallest, largest = (extreme_subnet(SPACE, largest=largest) for largest in (False, True))
    assert len(tables.levels) == len(tables.smallest) == 8
    assert tables.smallest[0] == smallest
    assert tables.levels[-1][-1] == largest
    middles = []
    for table, minimum in zip(tables.levels, tables.smallest, strict=True):
        sizes = list(map(macs, table))
        assert sizes == sorted(sizes)
        assert len(set(table)) == 30
        assert macs(minimum) <= sizes[len(sizes) // 2]
        middles.append(np.median(sizes))
    assert middles == sorted(middles)
    assert middles[0] < 3 * macs(smallest)


def test_complexity_aware_steps_have_subnets_of_one_size_and_walk_by_a_rung() -> None:
    sampler = ComplexityAwareSampler(SPACE, 2, 0)
    levels = []
    for step in range(STEPS):
        draw = sampler.draw(step, 0)
        drawn = [draw.teacher, *draw.students[:-1]]
        assert len(drawn) == 3
        assert max(map(macs, drawn)) < 1.8 * min(map(macs, drawn))
        assert macs(draw.teacher) == max(map(macs, drawn))
        levels.append(sampler.state()["level"])
    assert max(abs(b - a) for a, b in pairwise(levels)) == 1
    assert set(levels) == set(range(8))


@pytest.mark.parametrize("name", ["complexity-aware", "performance-aware"])
def test_a_loaded_sampler_goes_on_exactly(name: str) -> None:
    def teach(sampler: SubnetSampler, step: int) -> Draw:
        draw = sampler.draw(step, step / STEPS)
        sampler.observe(draw, [macs(subnet) / 1e7 for subnet in (draw.teacher, *draw.students)])
        return draw

    whole = make_sampler(name, SPACE, 2, 3, 100)
    for step in range(40):
        teach(whole, step)
    other = make_sampler(name, SPACE, 2, 3, 100)
    other.load(whole.state())
    assert [teach(whole, step) for step in range(40, 60)] == [teach(other, step) for step in range(40, 60)]


def test_performance_aware_draws_what_did_well_more_often_and_more_so_later() -> None:
    """In a made-up world the losses of a third of the subnets are low."""

    def loss(subnet: Subnet) -> float:
        return 0.1 if crc32(subnet.genome.encode()) % 3 == 0 else 5.0

    def share(sampler: PerformanceAwareSampler, progress: float) -> float:
        drawn: list[Subnet] = []
        for step in range(300):
            draw = sampler.draw(step, progress)
            sampler.observe(draw, [loss(subnet) for subnet in (draw.teacher, *draw.students)])
            drawn += (draw.teacher, *draw.students[:-1])
        return float(np.mean([loss(subnet) < 1 for subnet in drawn]))

    sampler = PerformanceAwareSampler(SPACE, 2, 0, per_epoch=40)
    early = share(sampler, 0.0)
    late = share(sampler, 0.99)
    assert late > 0.7
    assert late > early + 0.15
    banks = sampler.state()["banks"].values()
    assert all(len(bank) <= 10 for bank in banks)  # 2 passes a step, 40 steps an epoch, 8 levels

    def reversed_losses(subnets: Sequence[Subnet]) -> list[float]:
        return [-loss(subnet) for subnet in subnets]

    sampler.rescore(reversed_losses)
    for level, bank in sampler.state()["banks"].items():
        assert all(score == loss(sampler.tables.levels[level][number]) for number, score in bank.items())


def test_exploring_prefers_width_to_depth() -> None:
    sampler = PerformanceAwareSampler(SPACE, 2, 0, per_epoch=1000)
    widths = sampler.tables.widths
    ratios = []
    for step in range(STEPS):
        draw = sampler.draw(step, 0)
        level = sampler.state()["level"]
        table = sampler.tables.levels[level]
        drawn = [widths[level][table.index(subnet)] for subnet in (draw.teacher, *draw.students[:-1])]
        ratios.append(np.mean(drawn) / np.mean(widths[level]))
    assert np.mean(ratios) > 1.1


def test_a_leaning_subnet_without_bias_is_a_uniform_one() -> None:
    rng = np.random.default_rng(0)
    depths = [len(leaning_subnet(SPACE, rng, 0.0).stages[2]) for _ in range(900)]
    assert np.allclose(np.bincount(depths)[1:] / 900, 1 / 3, atol=0.06)
    small, large = (np.mean([macs(leaning_subnet(SPACE, rng, bias)) for _ in range(20)]) for bias in (-4, 4))
    assert large > 5 * small


def test_unknown_samplers_are_named() -> None:
    with pytest.raises(InvalidInput, match="'best' is no sampler"):
        make_sampler("best", SPACE, 2, 0, 10)
