"""A subnet that is worth a file, and a list of pictures for it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from milliseek.nas.exports.export import TrainedNetwork, trained_network
from milliseek.nas.pictures.data import Pictures, Split, digits
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.evaluation import calibration_batches
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernet import Supernet
from milliseek.nas.training.supernet_training import SupernetTraining
from milliseek.spaces.onnx_network import Precision
from milliseek.spaces.space import Space, Subnet, extreme_subnet

SPACE = "tiny32-1253-0000"
RECIPE = Recipe(Budget(steps=60), Budget(steps=20), weight_bits=7, dropout=0.0, ema=0.0)


@dataclass
class Trained:
    """One subnet with many kinds of block, trained alone on a few digits until it is right about most."""

    training: SupernetTraining
    subnet: Subnet
    pictures: Pictures
    calibration: list[tuple[Tensor, Tensor]]

    @property
    def supernet(self) -> Supernet:
        return self.training.supernet

    def network(self, precision: Precision, supernet: Supernet | None = None) -> TrainedNetwork:
        return trained_network(supernet or self.supernet, self.subnet, precision, self.pictures, self.calibration)


@pytest.fixture(scope="session")
def trained() -> Trained:
    pytest.importorskip("ai_edge_litert.interpreter")
    torch.set_num_threads(1)
    whole = digits()
    parts = ((whole.train, 600), (whole.val, 100), (whole.test, 200))
    train, val, test = (Split(split.pixels[:n], split.labels[:n]) for split, n in parts)
    pictures = Pictures(train, val, test, whole.classes, whole.mean, whole.std, "few digits")
    space = Space.decode(SPACE)
    subnet = extreme_subnet(space, largest=False)
    training = SupernetTraining(space, pictures, RECIPE, only=subnet)
    while not training.finished:
        training.step()
    return Trained(training, subnet, pictures, calibration_batches(pictures))
