"""Designed spaces against hand-made ones: top-1 of networks trained alone, at equal measured milliseconds.

    space_designs.py --data imagefolder:DIR --db FILE [--target T]... [--steps 2000] [--quality-minutes 60]

For each target: quality tables, evolution, and at each of its latencies the best of 500 random subnets by predicted
quality from the evolved space and from every hand-made one; each is trained alone for the same steps and its INT8 file
measured. Evolved spaces are also scored on the targets that they were not evolved for. Everything is kept in the
database: the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import report
from fronts import compared_with
from trained_alone import Trained, interval, recipe, train_side_by_side

from milliseek.cli.options import hyperspace_option
from milliseek.client import Client
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, NotFound, NotReady
from milliseek.nas.design.latency_budgets import default_budgets_ms
from milliseek.nas.design.score import Scorer
from milliseek.nas.design.score_tables import MeasuredTables
from milliseek.nas.design.scorers import make_scorer
from milliseek.nas.design.space_design import SpacePlan, best_space, design_space
from milliseek.nas.design.space_search import handmade_spaces
from milliseek.nas.design.table_subnets import PredictedSubnet, sampled_subnets
from milliseek.nas.pictures.data import Pictures, parse_data
from milliseek.nas.quality.quality_run import QualityBudget, find_table, make_table, table_name
from milliseek.nas.quality.quality_table import QualityTable, table_rows
from milliseek.nas.training.budget import Budget
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.predictors.profiles.evaluation import measure_models
from milliseek.predictors.profiles.profiling import profile
from milliseek.predictors.service import LatencyService
from milliseek.predictors.stored.versions import newest_predictor
from milliseek.predictors.targets import DeviceTarget, device_target
from milliseek.rpc.server import InProcessServer
from milliseek.spaces.hyperspace import Hyperspace
from milliseek.spaces.space import Space, Subnet

EVOLVED = "evolved"
TARGETS = ("local/onnxruntime/int8", "local/litert/int8")


def told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def profiled(database: Database, target: DeviceTarget, hyperspace: Hyperspace, seconds: float) -> str:
    """The target's newest predictor; one is made where there is none."""
    try:
        return newest_predictor(database, target.name).name
    except (NotFound, NotReady):
        told(f"profiling {target.name}")
        return profile(database, target, [hyperspace], seconds).predictor


def quality(
    database: Database, hyperspace: Hyperspace, pictures: Pictures, options: argparse.Namespace
) -> QualityTable:
    budget = QualityBudget(60 * options.quality_minutes, options.rows, options.weight_bits, options.seed)
    name = table_name(hyperspace, pictures, budget)
    last = [""]

    def progress(what: str, done: float, total: float) -> None:
        line = f"{what}: {10 * int(10 * done / total)} %"
        if line != last[0]:
            last[0] = line
            told(line)

    make_table(database, hyperspace, pictures, name, budget, checkpoint=options.teacher, on_progress=progress)
    return find_table(database, name)


def designs(
    database: Database,
    client: Client,
    target: DeviceTarget,
    hyperspace: Hyperspace,
    pictures: Pictures,
    table: QualityTable,
    options: argparse.Namespace,
) -> tuple[Scorer, dict[str, Space], dict[float, dict[str, PredictedSubnet]]]:
    """What scores spaces, spaces by name, and for each constraint in ms the network of every space that has one."""
    lookup = LatencyLookup(client.latency_table(hyperspace.name, target.name))
    limits = tuple(options.constraints or default_budgets_ms(hyperspace, lookup, options.seed)[: options.latencies])
    plan = SpacePlan(
        Budget(steps=1),
        (Budget(steps=1), Budget(steps=1)),  # of a table that is not made here
        evaluations=options.evaluations,
        population=max(20, min(500, options.evaluations // 5)),
        tournament=max(5, min(125, options.evaluations // 20)),
        seed=options.seed,
    )
    study = f"designs-{table.sha256[:8]}-{target.name.replace('/', '-')}-{'-'.join(f'{ms:g}' for ms in limits)}"
    designed = design_space(database, client, [target], hyperspace, pictures, study, plan, [limits], table)
    tables = MeasuredTables(hyperspace, table_rows(database, hyperspace, table), lookup, table.noise)
    scorer = make_scorer("exact", tables, limits, samples=0, seed=0)
    spaces = {EVOLVED: best_space(designed.ranking), **handmade_spaces(scorer)}
    chosen: dict[float, dict[str, PredictedSubnet]] = {}
    for i, limit in enumerate(limits):
        chosen[limit] = {}
        for name, space in spaces.items():
            rng = np.random.default_rng((options.seed, i))
            try:
                found = sampled_subnets(tables.quality, lookup, space, limit, options.samples, rng)
            except InvalidInput as error:
                told(f"{name} has no network at {limit:g} ms: {error.message}")
                continue
            chosen[limit][name] = min(found, key=lambda each: each.nsr)
    return scorer, spaces, chosen


def described(name: str, chosen: PredictedSubnet) -> dict[str, Any]:
    """What is known of a network before it is trained."""
    return {
        "name": name,
        "subnet": chosen.subnet.encoding,
        "nsr": chosen.nsr,
        "predicted_ms": chosen.latency_ms,
    }


def compared(
    database: Database, target: DeviceTarget, chosen: dict[str, PredictedSubnet], networks: dict[Subnet, Trained]
) -> list[dict[str, Any]]:
    """Networks of one latency: measured, and what the evolved one is better by."""
    trained = {name: networks[each.subnet] for name, each in chosen.items()}
    files = [(f"{name}.{target.format}", each.network.file(target.format)) for name, each in trained.items()]
    measured = measure_models(database, target, files)
    rows = []
    for (name, each), measurement in zip(chosen.items(), measured, strict=True):
        gain = trained[EVOLVED].right.astype(float) - trained[name].right if EVOLVED in trained else None
        rows.append(
            {
                **described(name, each),
                "measured_ms": measurement.latency_ms,
                "disturbed": measurement.disturbed,
                "top1": trained[name].top1,
                "top1_interval": interval(trained[name].right.astype(float)),
                "evolved_is_better_by": None if gain is None else float(gain.mean()),
                "better_by_interval": None if gain is None else interval(gain),
            }
        )
    return rows


def at_equals(latencies: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each hand-made network against the evolved space's, at its measured milliseconds and at its top-1."""
    rows = [row for found in latencies for row in found]
    own = [(row["measured_ms"], row["top1"]) for row in rows if row["name"] == EVOLVED]
    return [
        {"name": row["name"], **compared_with(own, row["measured_ms"], row["top1"])}
        for row in rows
        if row["name"] != EVOLVED
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--hyperspace", default="small32", help="name, or YAML file")
    parser.add_argument("--target", action="append", help="[default: local/onnxruntime/int8 and local/litert/int8]")
    parser.add_argument("--constraints", type=float, nargs="+", help="ms [default: what its networks can meet]")
    parser.add_argument("--latencies", type=int, default=2, help="how many of the default constraints")
    parser.add_argument("--profile-minutes", type=float, default=10.0)
    parser.add_argument("--quality-minutes", type=float, default=60.0)
    parser.add_argument("--teacher", type=Path, help="checkpoint of spaces quality --teacher-out")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--weight-bits", type=int, default=7, choices=(7, 8), help="of the quality table")
    parser.add_argument("--evaluations", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--design-only", action="store_true", help="train no networks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", type=Path, help="JSON of all networks, for milliseek proxies check")
    options = parser.parse_args()
    hyperspace = hyperspace_option(options.hyperspace)
    pictures = parse_data(options.data, max(hyperspace.resolutions))
    url = f"sqlite:///{options.db.absolute()}"
    database = Database.open(url)
    figures: dict[str, Any] = {}
    scorers: dict[str, Scorer] = {}
    evolved: dict[str, Space] = {}
    try:
        targets = [device_target(database, target) for target in options.target or TARGETS]
        predictors = [profiled(database, target, hyperspace, 60 * options.profile_minutes) for target in targets]
        table = quality(database, hyperspace, pictures, options)
        with (
            LatencyService(database) as service,
            InProcessServer(service) as server,
            Client(server.address, timeout_s=3600) as client,
        ):
            for target, predictor in zip(targets, predictors, strict=True):
                told(f"designing for {target.name}")
                scorer, spaces, chosen = designs(database, client, target, hyperspace, pictures, table, options)
                scorers[target.name], evolved[target.name] = scorer, spaces[EVOLVED]
                if options.design_only:
                    rows = [[described(name, each) for name, each in found.items()] for found in chosen.values()]
                else:
                    networks = list(dict.fromkeys(each.subnet for found in chosen.values() for each in found.values()))
                    told(f"training {len(networks)} networks for {target.name}")
                    plan = recipe(options.steps, target.weight_bits, options.seed, pictures)
                    trained = dict(zip(networks, train_side_by_side(url, options.data, networks, plan), strict=True))
                    rows = [compared(database, target, found, trained) for found in chosen.values()]
                figures[target.name] = {
                    "predictor": predictor,
                    "spaces": {
                        name: {
                            "space": space.encoding,
                            "blocks": [hyperspace.blocks[block].name for block in space.blocks],
                            "score": scorer.score(space).score,
                        }
                        for name, space in spaces.items()
                    },
                    "latencies": [
                        {"constraint_ms": limit, "networks": each} for limit, each in zip(chosen, rows, strict=True)
                    ],
                    "evolved_at_equals": [] if options.design_only else at_equals(rows),
                }
    finally:
        database.close()
    for name, scorer in scorers.items():
        figures[name]["score_of_space_evolved_for"] = {
            other: scorer.score(space).score for other, space in evolved.items()
        }
    if options.networks:
        rows = [row for found in figures.values() for each in found["latencies"] for row in each["networks"]]
        listed = [{"subnet": row["subnet"], "top1": row["top1"]} for row in rows]
        options.networks.write_text(json.dumps({"networks": listed}))
    settings = {key: getattr(options, key) for key in ("data", "hyperspace", "rows", "evaluations", "steps", "seed")}
    asked = {"teacher_top1": table.teacher_top1, "steps": table.plan.float_budget.steps, "noise": table.noise}
    report("space_designs", {**settings, "quality": asked, "targets": figures})


if __name__ == "__main__":
    main()
