"""Accuracy of one subnet of a supernet, after measuring its own batch norm statistics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...spaces.elastic import Statistics
from ...spaces.space import Subnet
from ..pictures.data import Batches, Pictures, SplitName, plain_batches
from .supernet import Supernet


def calibration_batches(
    pictures: Pictures, count: int = 4, batch: int = 64, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Training batches for `recalibrate`, to be made once and used for every subnet.

    They are not augmented: what is evaluated and shipped sees pictures as they are.
    """
    batches = Batches(pictures, batch, seed, "none")
    return [batches.at(step) for step in range(count)]


@torch.no_grad()
def recalibrate(supernet: Supernet, subnet: Subnet, batches: Iterable[tuple[Tensor, Tensor]]) -> Statistics:
    """Batch norm statistics of a subnet, averaged over batches; the supernet is left as it is.

    Measured with fake quantisation on where the supernet has it, because that is what is shipped.
    """
    statistics = Statistics()
    for i, (x, _) in enumerate(batches, 1):
        statistics.momentum = 1 / i
        supernet.logits(subnet, x, statistics)
    statistics.momentum = None
    return statistics


@torch.no_grad()
def predictions(
    supernet: Supernet, subnet: Subnet, statistics: Statistics, pictures: Pictures, split: SplitName, batch: int = 64
) -> Tensor:
    """Logits float32 (pictures, classes) for a split, in its order."""
    parts = (supernet.logits(subnet, x, statistics).cpu() for x, _ in plain_batches(pictures, split, batch))
    return torch.cat(list(parts))


def top1(
    supernet: Supernet, subnet: Subnet, statistics: Statistics, pictures: Pictures, split: SplitName, batch: int = 64
) -> float:
    """Share of a split's pictures that a subnet gets right, 0 to 1."""
    chosen = predictions(supernet, subnet, statistics, pictures, split, batch).argmax(1)
    return float((chosen == torch.from_numpy(pictures.split(split).labels)).float().mean())
