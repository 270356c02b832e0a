"""The teacher of block-wise distillation: a small residual network, cut where the hyperspace's stages are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from ...spaces.hyperspace import Hyperspace
from ..pictures.data import Batches, Pictures, SplitName, plain_batches, resize
from ..training.budget import Budget, Meter, cosine
from ..training.memory import keep_freed_memory

FEATURE_BYTES = 2 << 30
"""Features of all stages that are kept in files while a quality table is made."""
LEAST_PICTURES = 64


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

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.classifier.weight.device

    def cpu_state(self) -> dict[str, Tensor]:
        """Its weights, for a file that is read where there is no GPU too."""
        return {name: value.cpu() for name, value in self.state_dict().items()}

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
    device: str = "cpu",
    report: Callable[[float], None] = lambda _: None,
) -> Teacher:
    """Train a teacher on the pictures at all resolutions of the hyperspace; `report` gets the progress, 0 to 1."""
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = Teacher(hyperspace, len(pictures.classes)).to(device)
    optimiser = torch.optim.SGD(teacher.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    meter, batches = Meter(budget), Batches(pictures, batch, seed)
    teacher.train()
    for step in meter.run():
        optimiser.param_groups[0]["lr"] = learning_rate * cosine(meter.fraction)
        x, labels = (each.to(device) for each in batches.at(step))
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
    right = sum(int((teacher(x.to(teacher.device)).argmax(1).cpu() == labels).sum()) for x, labels in batches)
    return right / len(pictures.split(split))


@torch.no_grad()
def write_features(
    teacher: Teacher, pictures: Pictures, resolutions: Sequence[int], folder: Path, count: int, seed: int = 0
) -> None:
    """Features around every searched stage for `count` training pictures (all, if there are fewer), as files.

    They are many gigabytes for large pictures, and all cells of a stage read the same ones. Fewer pictures are taken
    where those would be more than `FEATURE_BYTES`.
    """
    teacher.eval()
    pixels = pictures.train.pixels
    affordable = FEATURE_BYTES // _feature_bytes(teacher, pictures, resolutions)
    count = min(count, len(pixels), max(LEAST_PICTURES, affordable))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pixels))[:count])
    for resolution in resolutions:
        files: list[np.memmap] = []
        for start in range(0, count, 64):
            x = resize(pictures.tensor(pixels[chosen[start : start + 64]]), resolution).to(teacher.device)
            maps = [boundary.half().cpu().numpy() for boundary in teacher.boundaries(x)]
            if not files:
                names = [folder / f"{boundary}-{resolution}.npy" for boundary in range(len(maps))]
                files = [
                    open_memmap(name, "w+", np.float16, (count, *each.shape[1:]))
                    for name, each in zip(names, maps, strict=True)
                ]
            for file, each in zip(files, maps, strict=True):
                file[start : start + 64] = each
        for file in files:
            file.flush()


def read_features(folder: Path, stage: int) -> StageFeatures:
    """Features around one searched stage, counted from 0; they are read from their files as they are used."""

    def maps(boundary: int) -> dict[int, np.ndarray]:
        files = sorted(folder.glob(f"{boundary}-*.npy"))
        return {int(file.stem.partition("-")[2]): np.load(file, mmap_mode="r") for file in files}

    return StageFeatures(maps(stage), maps(stage + 1))


@torch.no_grad()
def resolution_noise(
    teacher: Teacher, pictures: Pictures, resolutions: Sequence[int], count: int = 512
) -> dict[int, float]:
    """What the teacher itself loses at each resolution: the share of its pooled features' variance that is lost.

    Students are compared with the teacher at their own resolution, which says nothing of what a small picture lacks.
    Lost is what of a feature at the largest resolution the same feature at a smaller one does not tell, up to scale and
    shift, to which a network at that resolution adapts: the mean over features of 1 - correlation^2 over training
    pictures, at most `count` of them.
    """
    teacher.eval()
    x = pictures.tensor(pictures.train.pixels[:count]).to(teacher.device)
    pooled = {
        resolution: torch.cat([teacher.boundaries(resize(part, resolution))[-1].mean((2, 3)) for part in x.split(64)])
        for resolution in resolutions
    }
    centred = {resolution: (features - features.mean(0)).double() for resolution, features in pooled.items()}
    best = centred[max(resolutions)]
    variance = best.square().mean(0)
    alive = variance > 1e-4 * variance.mean()
    noise = {}
    for resolution, features in centred.items():
        told = (features * best).mean(0).square() / (features.square().mean(0) * variance).clamp_min(1e-30)
        noise[resolution] = max(0.0, float((1 - told[alive]).mean()))
    return {**noise, max(resolutions): 0.0}


def _feature_bytes(teacher: Teacher, pictures: Pictures, resolutions: Sequence[int]) -> int:
    """Bytes of one picture's features at all resolutions."""
    x = pictures.tensor(pictures.train.pixels[:1]).to(teacher.device)
    return sum(2 * boundary.numel() for r in resolutions for boundary in teacher.boundaries(resize(x, r)))
