"""Fine-tuning: one subnet trained alone for a while, with fake quantisation, before it becomes a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...spaces.space import Subnet
from ..pictures.data import Batches, Pictures
from ..training.budget import Budget, Meter, cosine
from ..training.evaluation import recalibrate, top1
from ..training.supernet import Supernet

BATCH = 64
LEARNING_RATE = 0.01
WEIGHT_DECAY = 1e-5
LABEL_SMOOTHING = 0.1


@dataclass(frozen=True)
class FineTuning:
    """How long one subnet was trained alone, and its int8 top-1 on the validation pictures before and after."""

    steps: int
    top1_before: float
    top1_after: float


def fine_tune(
    supernet: Supernet,
    subnet: Subnet,
    pictures: Pictures,
    budget: Budget,
    calibration: Sequence[tuple[Tensor, Tensor]],
    *,
    weight_bits: int,
    seed: int = 0,
    on_step: Callable[[float], None] = lambda _: None,
) -> tuple[Supernet, FineTuning]:
    """A copy of the supernet in which this subnet was trained alone, on the labels, with weights of `weight_bits`.

    The supernet is left as it is. Where the subnet is no better on the validation pictures afterwards, the copy has the
    numbers from before, if they are of that many bits. `on_step` is told the progress, 0 to 1.
    """

    def accuracy(of: Supernet) -> float:
        return top1(of, subnet, recalibrate(of, subnet, calibration), pictures, "val")

    tuned = with_weight_bits(supernet, weight_bits)
    before = accuracy(supernet)
    parameters = [p for module in (tuned.elastic, tuned.quantisation) for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    batches, meter = Batches(pictures, BATCH, seed), Meter(budget)
    for step in meter.run():
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * cosine(meter.fraction)
        x, labels = batches.at(step)
        optimiser.zero_grad()
        F.cross_entropy(tuned.logits(subnet, x), labels, label_smoothing=LABEL_SMOOTHING).backward()
        nn.utils.clip_grad_value_(parameters, 1.0)
        optimiser.step()
        tuned.quantisation.constrain()
        on_step(meter.fraction)
    after = accuracy(tuned)
    if after <= before and weight_bits == supernet.quantisation.weight_bits:
        return with_weight_bits(supernet, weight_bits), FineTuning(meter.steps, before, before)
    return tuned, FineTuning(meter.steps, before, after)


@torch.no_grad()
def with_weight_bits(supernet: Supernet, weight_bits: int) -> Supernet:
    """A copy whose weight codes have that many bits, in the same ranges."""
    copied = Supernet.from_state({**supernet.state(), "weight_bits": weight_bits})
    share = supernet.quantisation.limit / copied.quantisation.limit
    for scale in copied.quantisation.weight_scales.values():
        scale.mul_(share)
    return copied
