"""How well every stage choice can do its part, without training whole networks: block-wise distillation.

Each cell (searched stage, block type) is one elastic stage between two projections that learns to reproduce the
teacher's stage output (SpaceEvo, section 3.2). Quality is the noise-to-signal ratio
    NSR = mean over pictures and channels of [ mean_hw (S - T)^2 / var_hw(T) ]
with the teacher's variance, which a student cannot inflate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..spaces.blocks import BlockChoice
from ..spaces.elastic import FLOAT, ElasticLayers, Numerics, StageFragment
from ..spaces.hyperspace import Hyperspace
from .budget import Budget, Meter, cosine
from .fake_quant import ActivationSampler, FakeQuantisation
from .quality_rows import QualityRow
from .teacher import StageFeatures

HELD_OUT = 64
"""Pictures at the end of the features on which rows are measured, never trained on."""


@dataclass(frozen=True)
class CellTask:
    """One cell of the quality table, as plain values that travel to another process.

    `stage` counts searched stages from 0; `samples` rows are made per window and resolution. A pass trains on about
    `positions` spatial positions, so that late, small stages see more pictures than early, large ones.
    """

    hyperspace: Hyperspace
    stage: int
    block: int
    features: StageFeatures
    float_budget: Budget
    quantised_budget: Budget
    samples: int = 6
    weight_bits: int = 8
    positions: int = 2048
    learning_rate: float = 5e-3
    seed: int = 0


def nsr(student: Tensor, teacher: Tensor) -> Tensor:
    """Noise-to-signal ratio of stage outputs (pictures, channels, height, width), a scalar.

    Channels that are constant over all pictures carry no signal and do not count; the variance of one picture's channel
    is not taken below a tenth of that channel's average, so that single silent maps do not dominate.
    """
    variance = teacher.var((2, 3), correction=0)
    typical = variance.mean(0)
    alive = typical > 1e-4 * typical.mean()
    ratio = (student - teacher).square().mean((2, 3)) / torch.maximum(variance, 0.1 * typical).clamp_min(1e-12)
    return ratio[:, alive].mean()


def stage_fragment(task: CellTask) -> StageFragment:
    """The elastic stage of a cell; it is entered at the middle one of the widths of the stage before."""
    hyperspace = task.hyperspace
    stage, before = hyperspace.searched[task.stage], hyperspace.stages[task.stage]
    some = hyperspace.resolutions[0]
    return StageFragment(
        hyperspace.blocks[task.block],
        stage.widths,
        stage.depths,
        stage.stride,
        channels_in=task.features.inputs[some].shape[1],
        width_in=before.widths[len(before.widths) // 2],
        channels_out=task.features.outputs[some].shape[1],
    )


def draw_choices(fragment: StageFragment, widths: tuple[int, ...], rng: np.random.Generator) -> tuple[BlockChoice, ...]:
    """A sub-stage drawn uniformly choice by choice."""
    block = fragment.block
    return tuple(
        BlockChoice(int(rng.choice(widths)), int(rng.choice(block.kernels)), float(rng.choice(block.expands)))
        for _ in range(int(rng.choice(fragment.depths)))
    )


def distill_cell(task: CellTask) -> list[QualityRow]:
    """Train one cell, in floating point and then fake-quantised, and measure its rows.

    Meant for a process of its own: it uses one thread, and the result depends on the arguments alone where the
    budgets are given in steps.
    """
    torch.set_num_threads(1)
    return _Cell(task).rows()


class _Cell:
    """The trained elastic stage of a cell."""

    def __init__(self, task: CellTask) -> None:
        self.task = task
        self.fragment = stage_fragment(task)
        self.rng = np.random.default_rng((task.seed, task.stage, task.block))
        self.extremes = tuple(self.fragment.extreme(largest=largest) for largest in (True, False))
        self.mean, self.spread = self._signal()
        torch.manual_seed(task.seed)
        self.layers = ElasticLayers(self.fragment.layers())
        self._train(FLOAT, task.float_budget, task.learning_rate, list(self.layers.parameters()))
        self.quantised = self._quantise()
        parameters = [*self.layers.parameters(), *self.quantised.parameters()]
        self._train(self.quantised, task.quantised_budget, task.learning_rate / 5, parameters)

    def _pictures(self, resolution: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
        """Stage inputs and outputs of pictures for one pass."""
        inputs, outputs = (maps[resolution] for maps in (self.task.features.inputs, self.task.features.outputs))
        total, hw = inputs.shape[0], inputs.shape[2]
        reserved = min(HELD_OUT, total // 4)
        if held_out:
            count = min(reserved, max(16, 4 * self.task.positions // hw**2))
            index = np.arange(total - count, total)
        else:
            count = min(total - reserved, max(8, self.task.positions // hw**2))
            index = self.rng.choice(total - reserved, count, replace=False)
        x, target = (torch.from_numpy(maps[index]).float() for maps in (inputs, outputs))
        return x, target.sub_(self.mean).div_(self.spread)

    def _signal(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the teacher's output channels, (channels, 1, 1); infinite where constant.

        NSR does not change when student and teacher are scaled alike, but a student starts much closer to a teacher
        whose channels have mean 0 and variance 1, as its last batch norm gives them.
        """
        outputs = torch.from_numpy(self.task.features.outputs[max(self.task.features.outputs)]).float()
        spread, mean = torch.std_mean(outputs, (0, 2, 3), correction=0)
        spread[spread < 1e-3 * spread.mean()] = torch.inf
        return mean[:, None, None], spread[:, None, None]

    def _step(self, numerics: Numerics) -> None:
        """Gradients of the largest, the smallest and two random sub-stages, added up."""
        resolutions = tuple(self.task.features.inputs)
        drawn = [draw_choices(self.fragment, self.fragment.widths, self.rng) for _ in range(2)]
        for choices in (*self.extremes, *drawn):
            x, target = self._pictures(int(self.rng.choice(resolutions)), held_out=False)
            output = self.layers(self.fragment.network(choices, x.shape[2]), x, numerics)
            nsr(output, target).backward()

    def _train(
        self, numerics: Numerics, budget: Budget, learning_rate: float, parameters: list[torch.nn.Parameter]
    ) -> None:
        optimiser = torch.optim.Adam(parameters, learning_rate)
        meter = Meter(budget)
        for _ in meter.run():
            optimiser.param_groups[0]["lr"] = learning_rate * cosine(meter.fraction)
            optimiser.zero_grad()
            self._step(numerics)
            optimiser.step()
            if isinstance(numerics, FakeQuantisation):
                numerics.constrain()

    @torch.no_grad()
    def _quantise(self) -> FakeQuantisation:
        sampler = ActivationSampler()
        drawn = [draw_choices(self.fragment, self.fragment.widths, self.rng) for _ in range(4)]
        for choices in (*self.extremes, *drawn):
            x, _ = self._pictures(max(self.task.features.inputs), held_out=False)
            self.layers(self.fragment.network(choices, x.shape[2]), x, sampler)
        quantised = FakeQuantisation(self.layers.layers, self.task.weight_bits)
        quantised.start(self.layers, sampler.samples())
        return quantised

    @torch.no_grad()
    def rows(self) -> list[QualityRow]:
        """Rows of all windows and resolutions, with batch norm in batch statistics on held-out pictures."""
        task, rows = self.task, []
        windows = task.hyperspace.searched[task.stage].windows
        for resolution in task.features.inputs:
            x, target = self._pictures(resolution, held_out=True)
            for window, widths in enumerate(windows):
                for _ in range(task.samples):
                    choices = draw_choices(self.fragment, widths, self.rng)
                    network = self.fragment.network(choices, x.shape[2])
                    value = float(nsr(self.layers(network, x, self.quantised), target))
                    rows.append(QualityRow(task.stage, task.block, window, resolution, choices, value))
        return rows
