"""The three samplers of supernet training on a space with a wide range of multiply-accumulates.

    subnet_samplers.py --data imagefolder:PATH --budget 20m [--space tiny32-0010-0000] [--seeds 3] [--home FOLDER]

Each supernet is trained under its own name in a database in FOLDER, with checkpoints: the same command goes on after
an interruption, or where another machine stopped. The top-1 of the smallest and the largest subnet, and the mean of
five subnets half way between them on a logarithmic scale, are those on the test pictures, with fake quantisation.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from common import report

from milliseek.cli.options import seconds
from milliseek.db.engine import Database
from milliseek.nas.pictures.data import Pictures, parse_data
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.evaluation import calibration_batches, recalibrate, top1
from milliseek.nas.training.level_tables import leaning_subnet
from milliseek.nas.training.processes import Processes, choose_device
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernet import Supernet
from milliseek.nas.training.supernet_training import StepReport, SupernetTraining
from milliseek.nas.training.supernets import train_supernet
from milliseek.nas.training.training_samplers import SAMPLERS
from milliseek.spaces.counting import count, count_range
from milliseek.spaces.space import Space, Subnet, extreme_subnet

MIDDLE_SUBNETS = 5


def places(space: Space) -> dict[str, list[Subnet]]:
    """The subnets that are compared, the same ones for every sampler and seed."""
    smallest, largest = count_range(space)
    aim = math.sqrt(smallest.macs * largest.macs)
    rng = np.random.default_rng(0)
    drawn = [leaning_subnet(space, rng, rng.uniform(-2, 2)) for _ in range(500)]
    middle = sorted(drawn, key=lambda subnet: abs(math.log(count(subnet).macs / aim)))[:MIDDLE_SUBNETS]
    return {
        "smallest": [extreme_subnet(space, largest=False)],
        "middle": middle,
        "largest": [extreme_subnet(space, largest=True)],
    }


def accuracies(supernet: Supernet, pictures: Pictures, subnets: dict[str, list[Subnet]]) -> dict[str, float]:
    calibration = calibration_batches(pictures, 20)
    return {
        place: fmean(top1(supernet, each, recalibrate(supernet, each, calibration), pictures, "test") for each in group)
        for place, group in subnets.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", default="tiny32-0010-0000")
    parser.add_argument("--budget", type=seconds, default=1200.0, help="of each supernet: 20m; --steps instead")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--augment", default="crop")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--home", type=Path, default=Path("subnet-samplers"))
    options = parser.parse_args()
    space, pictures = Space.decode(options.space), parse_data(options.data)
    parts = (2 / 3, 1 / 3)
    if options.steps:
        budgets = [Budget(steps=max(1, round(options.steps * part))) for part in parts]
    else:
        budgets = [Budget(seconds=options.budget * part) for part in parts]
    subnets = places(space)
    options.home.mkdir(parents=True, exist_ok=True)
    database = Database.open(f"sqlite:///{options.home.absolute() / 'milliseek.db'}")
    processes = Processes(choose_device(options.device))
    figures: dict[str, Any] = {}
    for sampler in SAMPLERS:
        runs = []
        for seed in range(options.seeds):
            recipe = Recipe(*budgets, batch=options.batch, seed=seed, sampler=sampler, augmentation=options.augment)
            latest: list[SupernetTraining] = []

            def remember(
                training: SupernetTraining,
                _: StepReport | None,
                latest: list[SupernetTraining] = latest,
            ) -> None:
                latest[:] = [training]

            name = f"{sampler}-{seed}"
            supernet = train_supernet(database, name, space, pictures, recipe, remember, processes)
            runs.append({"steps": latest[0].steps, **accuracies(supernet, pictures, subnets)})
        figures[sampler] = {"runs": runs, **{place: fmean(run[place] for run in runs) for place in subnets}}
    database.close()
    macs = {place: round(fmean(count(each).macs for each in group)) for place, group in subnets.items()}
    settings = {key: getattr(options, key) for key in ("data", "space", "budget", "steps", "batch", "seeds", "augment")}
    report(
        "subnet_samplers",
        {
            **settings,
            "device": processes.device.type,
            "macs": macs,
            "macs_range": macs["largest"] / macs["smallest"],
            "top1": figures,
        },
    )


if __name__ == "__main__":
    main()
