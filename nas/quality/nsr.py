"""Noise-to-signal ratios: how much of a teacher's stage output a student misses."""

from __future__ import annotations

import torch
from torch import Tensor

FOLDS = 4
RIDGE = 1e-4
"""Added to the mean square of every feature, all of which have variance 1."""


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


def readout_nsr(features: Tensor, teacher: Tensor) -> Tensor:
    """NSR of the teacher's output (pictures, channels, h, w) as the best linear map of `features` tells it, a scalar.

    `features`: (pictures, any number of channels, h, w). Each of `FOLDS` parts of the pictures is read out by the ridge
    regression that the others give: a map that knew the picture would flatter wide features.
    """
    count, _, height, width = features.shape
    x = features.permute(0, 2, 3, 1).flatten(1, 2).double()
    spread, mean = torch.std_mean(x, (0, 1), correction=0)
    x = (x - mean) / torch.where(spread > 0, spread, 1)
    x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
    y = teacher.permute(0, 2, 3, 1).flatten(1, 2).double()
    fold = torch.arange(count, device=x.device) % min(FOLDS, count)
    parts = [fold == i for i in range(int(fold.max()) + 1)]
    products = torch.stack([_products(x[part], y[part]) for part in parts])
    told = torch.empty_like(y)
    for part, own in zip(parts, products, strict=True):
        gram, cross = (products.sum(0) - own).split([x.shape[2], y.shape[2]], 1)
        ridge = RIDGE * gram[-1, -1] * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        told[part] = x[part] @ torch.linalg.solve(gram + ridge, cross)
    return nsr(told.permute(0, 2, 1).unflatten(2, (height, width)).to(teacher.dtype), teacher)


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Sums over pictures and positions of x x' and x y', side by side."""
    flat = x.flatten(0, 1)
    return flat.T @ torch.cat([flat, y.flatten(0, 1)], 1)
