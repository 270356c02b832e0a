"""Evaluations that a search needs to dominate as much as random search does, on one fixed supernet.

    search_hypervolume.py --database FILE [--budget 4m] [--evaluations 200] [--seeds 5] [--algorithms guided nsga2]

Random search evaluates `--evaluations` subnets with each seed; every other algorithm goes on until its hypervolume is
as large as that, or until it has evaluated as many. The supernet and all studies are kept in the database: the same
command goes on where it was. `times_fewer` is 0 where it was never reached.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import report

from milliseek.db.engine import Database
from milliseek.nas.pictures.data import parse_data
from milliseek.nas.search.objectives import parse_goal
from milliseek.nas.search.subnet_costs import SubnetCosts, reference_values
from milliseek.nas.search.subnet_search import hypervolumes, make_sampler, search_subnets
from milliseek.nas.studies import finished_trials, load_study
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.evaluation import calibration_batches, recalibrate, top1
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernets import train_supernet, trained_size
from milliseek.spaces.space import Space, Subnet

SUPERNET = "benchmark"
UNITS = {"s": 1, "m": 60, "h": 3600}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--space", default="tiny32-1251-0102")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", default="4m", help="of the supernet's training: 90s, 4m, 1h, or 600steps")
    parser.add_argument("--objectives", nargs="+", default=["top1", "macs"])
    parser.add_argument("--constraints", nargs="*", default=[])
    parser.add_argument("--algorithms", nargs="+", default=["guided", "nsga2"])
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    started = time.monotonic()
    space = Space.decode(options.space)
    pictures = parse_data(options.data, trained_size(space))
    database = Database.open(f"sqlite:///{options.database.absolute()}")
    supernet = train_supernet(
        database, SUPERNET, space, pictures, Recipe(*budgets(options.budget), weight_bits=7, learning_rate=0.1)
    )
    goal = parse_goal(options.objectives, options.constraints, "none/none/int8")
    costs = SubnetCosts(space, {}, supernet.classes)
    reference = reference_values(goal, costs, 1 / supernet.classes)
    calibration = calibration_batches(pictures)

    def accuracy(subnet: Subnet) -> float:
        return top1(supernet, subnet, recalibrate(supernet, subnet, calibration), pictures, "val")

    def study_name(algorithm: str, seed: int) -> str:
        return " ".join((algorithm, str(seed), *options.objectives, *options.constraints))

    def grown(name: str) -> np.ndarray:
        return hypervolumes(load_study(database.url, name), goal, reference)

    def searched(algorithm: str, seed: int, enough: float = float("inf")) -> np.ndarray:
        """Hypervolume after every evaluation; it ends as soon as it is `enough`."""
        name = study_name(algorithm, seed)
        sampler = make_sampler(algorithm, costs, goal, seed=seed)  # type: ignore[arg-type]
        search_subnets(
            database.url,
            name,
            sampler,
            accuracy,
            evaluations=options.evaluations,
            stop=lambda done: done > 0 and enough < float("inf") and grown(name)[-1] >= enough,
        )
        return grown(name)

    random = [searched("random", seed) for seed in range(options.seeds)]
    figures: dict[str, Any] = {"random": {"hypervolume": [float(volume[-1]) for volume in random]}}
    for algorithm in options.algorithms:
        needed = [reached(searched(algorithm, seed, goal_[-1]), goal_[-1]) for seed, goal_ in enumerate(random)]
        fewer = [options.evaluations / count if count else 0.0 for count in needed]  # 0: never reached
        figures[algorithm] = {
            "evaluations_needed": needed,
            "times_fewer": [round(ratio, 2) for ratio in fewer],
            "median_times_fewer": round(statistics.median(fewer), 2),
        }
    trials = finished_trials(load_study(database.url, study_name("random", 0)))
    settings = {key: getattr(options, key) for key in ("space", "data", "budget", "objectives", "constraints")}
    report(
        "search_hypervolume",
        {
            **settings,
            "evaluations": options.evaluations,
            "seeds": options.seeds,
            "random_top1": [
                float(q) for q in np.quantile([t.user_attrs["metrics"]["top1"] for t in trials], [0, 0.5, 1])
            ],
            "algorithms": figures,
            "seconds": round(time.monotonic() - started, 1),
        },
    )
    database.close()


def reached(volumes: np.ndarray, enough: float) -> int | None:
    """Evaluations until the hypervolume was `enough`, None if it never was."""
    found = np.flatnonzero(volumes >= enough)
    return int(found[0]) + 1 if len(found) else None


def budgets(text: str) -> tuple[Budget, Budget]:
    """Two thirds in floating point, one third fake-quantised."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|steps)", text)
    if match is None:
        raise SystemExit(f"'{text}' is no budget; write 90s, 4m, 1h or 600steps.")
    if match[2] == "steps":
        steps = int(float(match[1]))
        return Budget(steps=steps - steps // 3), Budget(steps=steps // 3)
    total_s = float(match[1]) * UNITS[match[2]]
    return Budget(seconds=total_s * 2 / 3), Budget(seconds=total_s / 3)


if __name__ == "__main__":
    main()
