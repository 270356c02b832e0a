"""Networks trained alone, each with checkpoints of its own in the database, and their answers on the test pictures."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from milliseek.db.engine import Database
from milliseek.nas.exports.export import TrainedNetwork, trained_network
from milliseek.nas.pictures.data import Pictures, parse_data
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.evaluation import calibration_batches
from milliseek.nas.training.processes import Processes, choose_device
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernets import train_supernet
from milliseek.spaces.space import Subnet

BATCH = 32
RESAMPLES = 2000


@dataclass(frozen=True)
class Trained:
    """A network and, for each test picture, whether its INT8 answer is right."""

    network: TrainedNetwork
    right: np.ndarray

    @property
    def top1(self) -> float:
        return float(self.right.mean())


def recipe(steps: int, weight_bits: int, seed: int, pictures: Pictures) -> Recipe:
    """The same for every network: four fifths of the steps in floating point, the rest quantised.

    Pictures are augmented only where some are seen more than once.
    """
    quantised = max(1, steps // 5)
    return Recipe(
        Budget(steps=max(1, steps - quantised)),
        Budget(steps=quantised),
        weight_bits=weight_bits,
        batch=BATCH,
        learning_rate=0.05,
        dropout=0.0,
        augmentation="crop" if steps * BATCH > len(pictures.train) else "none",
        seed=seed,
    )


def train_side_by_side(url: str, data: str, subnets: Sequence[Subnet], plan: Recipe) -> list[Trained]:
    """Trained to the end, or as far as an interruption lets them; on a CPU one to a core, which is faster."""
    workers = 1 if choose_device("auto").type != "cpu" else psutil.cpu_count(logical=False) or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(subnets))), context, torch.set_num_threads, (1,)) as pool:
        jobs = [pool.submit(_train_in_process, url, data, subnet.encoding, plan) for subnet in subnets]
        return [job.result() for job in jobs]


def _train_in_process(url: str, data: str, encoding: str, plan: Recipe) -> Trained:
    database = Database.open(url)
    try:
        subnet = Subnet.decode(encoding)
        return train_alone(database, subnet, parse_data(data, max(subnet.space.hyperspace.resolutions)), plan)
    finally:
        database.close()


def train_alone(database: Database, subnet: Subnet, pictures: Pictures, plan: Recipe) -> Trained:
    """Trained to the end, or loaded; called again after an interruption it goes on."""
    name = hashlib.sha256(f"{subnet.encoding} {plan} {pictures.fingerprint}".encode()).hexdigest()[:24]
    supernet = train_supernet(
        database,
        f"alone-{name}",
        subnet.space,
        pictures,
        plan,
        processes=Processes(choose_device("auto")),
        only=subnet,
    )
    network = trained_network(supernet, subnet, "int8", pictures, calibration_batches(pictures))
    return Trained(network, network.answers["test"] == pictures.test.labels)


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """90 % bootstrap interval of the mean, over test pictures."""
    rng = np.random.default_rng(seed)
    means = [float(values[rng.integers(len(values), size=len(values))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.05, 0.95])
    return float(low), float(high)
