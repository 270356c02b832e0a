"""How well every stage choice can do its part, without training whole networks: block-wise distillation.

Each cell (searched stage, block type) is one elastic stage between two projections that learns to reproduce the
teacher's stage output (SpaceEvo, section 3.2). Quality is the noise-to-signal ratio
    NSR = mean over pictures and channels of [ mean_hw (S - T)^2 / var_hw(T) ]
with the teacher's variance, which a student cannot inflate. The projection behind the stage is no part of the network
that will be built: a row is measured with the best one for that sub-stage (`readout_nsr`), not with the one that all
sub-stages had to share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...spaces.blocks import BlockChoice
from ...spaces.elastic import FLOAT, ElasticLayers, Numerics, StageFragment
from ...spaces.hyperspace import Hyperspace
from ..training.budget import Budget, Meter, cosine
from ..training.fake_quant import ActivationSampler, FakeQuantisation
from ..training.memory import keep_freed_memory
from .nsr import nsr, readout_nsr
from .quality_rows import QualityRow
from .teacher import read_features

LEAST_TRAINED = 8
HELD_OUT = 96
"""Pictures at the end of the features on which rows are measured, never trained on."""
MEASURED_POSITIONS, LEAST_MEASURED = 3072, 16
"""Rows are measured on so many positions of the stage's output at the smallest resolution, where the readout has to be
found from fewest, and on the same pictures at all resolutions."""
WARMED, REHEARSED = 4, 16
"""Steps before those that are timed, and those: every step draws another sub-stage."""
DRAWS = 30
"""Draws for each different sub-stage that is wanted."""
SIGNAL_PICTURES = 256
"""Pictures whose features tell a channel's mean and spread."""


@dataclass(frozen=True)
class CellTask:
    """One cell of the quality table, as plain values that travel to another process.

    `stage` counts searched stages from 0; `features` is a folder of `teacher.write_features`; `samples` different rows
    are made per window and resolution, fewer where there are not so many sub-stages. A step trains one sub-stage on
    about `positions` spatial positions, so that late, small stages see more pictures than early, large ones, and on
    `LEAST_TRAINED` pictures at least. Many small steps teach more than few large ones: the third stage of small32 had
    an NSR of 0.56 (resnet) and 0.53 (mbv2) after 193 sandwich steps of eight pictures (largest, smallest, two random
    sub-stages; 136 and 42 s), 0.47 and 0.45 after 387 steps of three random ones (82 and 43 s), 0.38 and 0.38 after
    1162 steps of one (111 and 55 s). After 930 such steps mbv2 had 0.44, 0.38, 0.35 and 0.36 with a `learning_rate` of
    0.004, 0.01, 0.025 and 0.06, resnet 0.39, 0.36 and 0.36 with the last three.
    """

    hyperspace: Hyperspace
    stage: int
    block: int
    features: Path
    float_budget: Budget
    quantised_budget: Budget
    samples: int = 6
    weight_bits: int = 8
    positions: int = 512
    learning_rate: float = 3e-2
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class CellCost:
    """Seconds that a training step of a cell takes, in floating point and quantised, and one row."""

    float_s: float
    quantised_s: float
    row_s: float


def stage_fragment(
    hyperspace: Hyperspace, stage_number: int, block: int, channels_in: int, channels_out: int
) -> StageFragment:
    """The elastic stage of a cell; it is entered at the middle one of the widths of the stage before.

    `stage_number` counts searched stages from 0; `channels_in` and `channels_out` are those of the teacher's stage.
    """
    stage, before = hyperspace.searched[stage_number], hyperspace.stages[stage_number]
    return StageFragment(
        hyperspace.blocks[block],
        stage.widths,
        stage.depths,
        stage.stride,
        channels_in=channels_in,
        width_in=before.widths[len(before.widths) // 2],
        channels_out=channels_out,
    )


def draw_choices(fragment: StageFragment, widths: tuple[int, ...], rng: np.random.Generator) -> tuple[BlockChoice, ...]:
    """A sub-stage drawn uniformly choice by choice."""
    block = fragment.block
    return tuple(
        BlockChoice(int(rng.choice(widths)), int(rng.choice(block.kernels)), float(rng.choice(block.expands)))
        for _ in range(int(rng.choice(fragment.depths)))
    )


def draw_different(
    fragment: StageFragment, widths: tuple[int, ...], count: int, rng: np.random.Generator
) -> list[tuple[BlockChoice, ...]]:
    """`count` different sub-stages, or as many of them as `DRAWS` times that many draws find."""
    found: dict[tuple[BlockChoice, ...], None] = {}
    for _ in range(DRAWS * count):
        found.setdefault(draw_choices(fragment, widths, rng))
        if len(found) == count:
            break
    return list(found)


def distill_cell(task: CellTask) -> list[QualityRow]:
    """Train one cell, in floating point and then fake-quantised, and measure its rows.

    Meant for a process of its own: it uses one thread, and the result depends on the arguments alone where the
    budgets are given in steps.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    cell = _Cell(task)
    cell.train(task.float_budget)
    cell.quantise()
    cell.train(task.quantised_budget)
    return cell.rows()


def rehearse_cell(task: CellTask) -> CellCost:
    """What the steps and rows of a cell take in a process like that of `distill_cell`."""
    torch.set_num_threads(1)
    keep_freed_memory()
    cell, warm_up, steps = _Cell(task), Budget(steps=WARMED), Budget(steps=REHEARSED)
    cell.train(warm_up)
    float_s = cell.seconds(lambda: cell.train(steps)) / REHEARSED
    cell.quantise()
    cell.train(warm_up)
    quantised_s = cell.seconds(lambda: cell.train(steps)) / REHEARSED
    drawn = [
        (resolution, draw_choices(cell.fragment, cell.fragment.widths, cell.rng))
        for resolution in task.hyperspace.resolutions
        for _ in range(2)
    ]
    row_s = cell.seconds(lambda: [cell.nsr(*each) for each in drawn]) / len(drawn)
    return CellCost(float_s, quantised_s, row_s)


class _Cell:
    """The elastic stage of a cell while it is trained and measured."""

    def __init__(self, task: CellTask) -> None:
        self.task = task
        self.features = read_features(task.features, task.stage)
        inputs, outputs = (
            maps[task.hyperspace.resolutions[0]] for maps in (self.features.inputs, self.features.outputs)
        )
        self.fragment = stage_fragment(task.hyperspace, task.stage, task.block, inputs.shape[1], outputs.shape[1])
        self.rng = np.random.default_rng((task.seed, task.stage, task.block))
        self.extremes = tuple(self.fragment.extreme(largest=largest) for largest in (True, False))
        self.mean, self.spread = self._signal()
        torch.manual_seed(task.seed)
        self.layers = ElasticLayers(self.fragment.layers()).to(task.device)
        self.quantised: FakeQuantisation | None = None

    @property
    def numerics(self) -> Numerics:
        return self.quantised or FLOAT

    def seconds(self, work: Callable[[], object]) -> float:
        """What `work` takes, on a GPU until that has done it."""
        started = time.perf_counter()
        work()
        if self.mean.is_cuda:
            torch.cuda.synchronize(self.mean.device)
        return time.perf_counter() - started

    def _pictures(self, resolution: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
        """Stage inputs and outputs of pictures for one pass."""
        inputs, outputs = (maps[resolution] for maps in (self.features.inputs, self.features.outputs))
        total, hw = inputs.shape[0], inputs.shape[2]
        reserved = min(HELD_OUT, total // 4)
        if held_out:
            smallest = min(each.shape[2] for each in self.features.outputs.values())
            count = min(reserved, max(LEAST_MEASURED, MEASURED_POSITIONS // smallest**2))
            index = np.arange(total - count, total)
        else:
            count = min(total - reserved, max(LEAST_TRAINED, self.task.positions // hw**2))
            index = self.rng.choice(total - reserved, count, replace=False)
        x, target = (torch.from_numpy(maps[index]).to(self.task.device).float() for maps in (inputs, outputs))
        return x, target.sub_(self.mean).div_(self.spread)

    def _signal(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the teacher's output channels, (channels, 1, 1); infinite where constant.

        NSR does not change when student and teacher are scaled alike, but a student starts much closer to a teacher
        whose channels have mean 0 and variance 1, as its last batch norm gives them.
        """
        some = self.features.outputs[max(self.features.outputs)][:SIGNAL_PICTURES]
        outputs = torch.from_numpy(np.array(some)).to(self.task.device).float()
        spread, mean = torch.std_mean(outputs, (0, 2, 3), correction=0)
        spread[spread < 1e-3 * spread.mean()] = torch.inf
        return mean[:, None, None], spread[:, None, None]

    def _step(self) -> None:
        """Gradients of one random sub-stage at a random resolution."""
        choices = draw_choices(self.fragment, self.fragment.widths, self.rng)
        x, target = self._pictures(int(self.rng.choice(self.task.hyperspace.resolutions)), held_out=False)
        network = self.fragment.network(choices, x.shape[2])
        nsr(self.layers(network, x, self.numerics), target).backward()

    def train(self, budget: Budget) -> None:
        """Learn from the teacher; a fifth as fast once the stage is quantised."""
        parameters, rate = list(self.layers.parameters()), self.task.learning_rate
        if self.quantised is not None:
            parameters, rate = [*parameters, *self.quantised.parameters()], rate / 5
        optimiser = torch.optim.Adam(parameters, rate)
        meter = Meter(budget)
        for _ in meter.run():
            optimiser.param_groups[0]["lr"] = rate * cosine(meter.fraction)
            optimiser.zero_grad()
            self._step()
            optimiser.step()
            if self.quantised is not None:
                self.quantised.constrain()

    @torch.no_grad()
    def quantise(self) -> None:
        """Start the quantisers, and use them from now on."""
        sampler = ActivationSampler()
        drawn = [draw_choices(self.fragment, self.fragment.widths, self.rng) for _ in range(4)]
        for choices in (*self.extremes, *drawn):
            x, _ = self._pictures(max(self.task.hyperspace.resolutions), held_out=False)
            self.layers(self.fragment.network(choices, x.shape[2]), x, sampler)
        quantised = FakeQuantisation(self.layers.layers, self.task.weight_bits).to(self.task.device)
        quantised.start(self.layers, sampler.samples())
        self.quantised = quantised

    @torch.no_grad()
    def nsr(self, resolution: int, choices: tuple[BlockChoice, ...]) -> float:
        """NSR of a sub-stage on held-out pictures, with batch norm in batch statistics."""
        x, target = self._pictures(resolution, held_out=True)
        network = self.fragment.network(choices, x.shape[2]).without_last()
        return float(readout_nsr(self.layers(network, x, self.numerics), target))

    def rows(self) -> list[QualityRow]:
        """Rows of all windows and resolutions."""
        task = self.task
        return [
            QualityRow(task.stage, task.block, window, resolution, choices, self.nsr(resolution, choices))
            for resolution in task.hyperspace.resolutions
            for window, widths in enumerate(task.hyperspace.searched[task.stage].windows)
            for choices in draw_different(self.fragment, widths, task.samples, self.rng)
        ]
