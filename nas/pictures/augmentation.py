"""Random changes of training pictures, functions of a seed alone."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

AugmentationName = Literal["none", "crop", "flip", "randaugment"]
AUGMENTATIONS: tuple[AugmentationName, ...] = get_args(AugmentationName)

CROP_PADDING = 4
OPERATIONS, MAGNITUDE = 2, 9
"""RandAugment's N and M (Cubuk et al., 2020: 2 and 9 for ImageNet; of kornia's 30 magnitudes)."""


def cropped(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (batch, size, size, 3), each picture padded by 4 pixels and cropped at a random place."""
    count, size = pixels.shape[:2]
    top, left = rng.integers(0, 2 * CROP_PADDING + 1, (2, count, 1, 1))
    padding = ((0, 0), (CROP_PADDING, CROP_PADDING), (CROP_PADDING, CROP_PADDING), (0, 0))
    along = np.arange(size)
    chosen: np.ndarray = np.pad(pixels, padding)[np.arange(count)[:, None, None], top + along[:, None], left + along]
    return chosen


def changed(pictures: Tensor, name: AugmentationName, seed: int) -> Tensor:
    """Float pictures (batch, 3, size, size) in 0..255, mirrored (`flip`), and for `randaugment` distorted too."""
    if name in ("none", "crop"):
        return pictures
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        result: Tensor = _transforms(name)(pictures / 255)
    return result.clamp_(0, 1).mul_(255)


@cache
def _transforms(name: AugmentationName) -> Any:
    import kornia.augmentation as augmentation
    from kornia.augmentation.auto import RandAugment

    mirror = augmentation.RandomHorizontalFlip(p=0.5)
    if name == "flip":
        return mirror
    return torch.nn.Sequential(mirror, RandAugment(OPERATIONS, MAGNITUDE))
