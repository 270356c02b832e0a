"""The loss with which small subnets learn from the largest one."""

from __future__ import annotations

import torch
from torch import Tensor


def adaptive_alpha_divergence(
    student: Tensor, teacher: Tensor, alphas: tuple[float, float] = (-1.0, 1.0), clip: float = 5.0
) -> Tensor:
    """AlphaNet's adaptive divergence of logits (batch, classes), mean over the batch (Wang et al., 2021, section 4).

    Of two alpha-divergences the larger one teaches: alpha -1 punishes a student that is too sure, alpha 1 (the
    Kullback-Leibler divergence) one that misses modes. The value is a surrogate: its gradient is the divergence's with
    importance ratios clipped, its value is not the divergence.
    """
    target = teacher.detach()
    log_ratio = (torch.log_softmax(target, 1) - torch.log_softmax(student, 1)).detach()
    log_q = torch.log_softmax(student, 1)
    q = log_q.detach().exp()
    losses: list[Tensor] = []
    surrogates: list[Tensor] = []
    for alpha in alphas:
        if alpha == 1:
            ratio = log_ratio.exp()
            value, weight = ratio * log_ratio, ratio
        else:
            ratio = (alpha * log_ratio).exp().clamp(max=clip)
            base = 1 / (alpha * (alpha - 1))
            value, weight = ratio * base - base, ratio / alpha + base
        losses.append((q * value).sum(1))
        surrogates.append(-(q * weight * log_q).sum(1))
    return torch.where(losses[0] > losses[1], surrogates[0], surrogates[1]).mean()
