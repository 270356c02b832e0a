"""The teacher of block-wise distillation: a small residual network, cut where the hyperspace's stages are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spaces.hyperspace import Hyperspace
from .budget import Budget, Meter, cosine
from .data import Batches, Pictures, SplitName, plain_batches, resize


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a shortcut (He et al., 2016)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(cin, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(),
            nn.Conv2d(cout, cout, 3, 1, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Teacher(nn.Module):
    """One residual block per searched stage, with that stage's stride and largest width."""

    def __init__(self, hyperspace: Hyperspace, classes: int) -> None:
        super().__init__()
        first, width = hyperspace.stages[0], max(hyperspace.stages[0].widths)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, hyperspace.stem_stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, first.stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        widths = [width, *(max(stage.widths) for stage in hyperspace.searched)]
        self.stages = nn.ModuleList(
            _ResidualBlock(cin, cout, stage.stride)
            for cin, cout, stage in zip(widths, widths[1:], hyperspace.searched, strict=False)
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def boundaries(self, x: Tensor) -> list[Tensor]:
        """The first searched stage's input, then every stage's output, each (batch, channels, height, width)."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        features = [x]
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        logits: Tensor = self.classifier(self.boundaries(x)[-1].mean((2, 3)))
        return logits


@dataclass(frozen=True)
class StageFeatures:
    """What the teacher sees around one stage, for every resolution of the hyperspace.

    `inputs` and `outputs`: float16 (pictures, channels, height, width) by resolution, the same pictures throughout.
    """

    inputs: dict[int, np.ndarray]
    outputs: dict[int, np.ndarray]


def train_teacher(
    hyperspace: Hyperspace,
    pictures: Pictures,
    budget: Budget,
    *,
    batch: int = 64,
    learning_rate: float = 0.05,
    seed: int = 0,
    report: Callable[[float], None] = lambda _: None,
) -> Teacher:
    """Train a teacher on the pictures at all resolutions of the hyperspace; `report` gets the progress, 0 to 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = Teacher(hyperspace, len(pictures.classes))
    optimiser = torch.optim.SGD(teacher.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    meter, batches = Meter(budget), Batches(pictures, batch, seed)
    teacher.train()
    for step in meter.run():
        optimiser.param_groups[0]["lr"] = learning_rate * cosine(meter.fraction)
        x, labels = batches.at(step)
        resolution = hyperspace.resolutions[step % len(hyperspace.resolutions)]
        optimiser.zero_grad()
        F.cross_entropy(teacher(resize(x, resolution)), labels, label_smoothing=0.1).backward()
        optimiser.step()
        report(meter.fraction)
    return teacher.eval()


@torch.no_grad()
def teacher_top1(teacher: Teacher, pictures: Pictures, split: SplitName) -> float:
    """Share of a split's pictures that the teacher gets right, at full size."""
    teacher.eval()
    batches = plain_batches(pictures, split, 256)
    right = sum(int((teacher(x).argmax(1) == labels).sum()) for x, labels in batches)
    return right / len(pictures.split(split))


@torch.no_grad()
def stage_features(
    teacher: Teacher, pictures: Pictures, resolutions: Sequence[int], count: int, seed: int = 0
) -> tuple[StageFeatures, ...]:
    """Features around every searched stage for `count` training pictures (all, if there are fewer)."""
    teacher.eval()
    pixels = pictures.train.pixels
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:count]
    x = pictures.tensor(pixels[np.sort(chosen)])
    stages = len(teacher.stages)
    features = tuple(StageFeatures({}, {}) for _ in range(stages))
    for resolution in resolutions:
        parts = [teacher.boundaries(resize(chunk, resolution)) for chunk in torch.split(x, 64)]
        maps = [torch.cat(boundary).half().numpy() for boundary in zip(*parts, strict=True)]
        for stage, (entering, leaving) in enumerate(pairwise(maps)):
            features[stage].inputs[resolution] = entering
            features[stage].outputs[resolution] = leaving
    return features
