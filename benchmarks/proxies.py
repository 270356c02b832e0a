"""Kendall's tau of training-free proxies, and of a quality table, on networks that were trained alone.

    proxies.py --data imagefolder:DIR --db FILE [--networks 60] [--steps 1000] [--quality TABLE]

Networks are random subnets of random spaces; with --quality they are made of the table's sub-stages, and their
predicted NSR is judged too. Each training is kept in the database: the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from common import report
from trained_alone import recipe, train_alone

from milliseek.cli.options import hyperspace_option
from milliseek.db.engine import Database
from milliseek.nas.pictures.data import parse_data
from milliseek.nas.quality.proxies import PROXIES, ProxyTask
from milliseek.nas.quality.quality_run import find_table
from milliseek.nas.quality.quality_table import table_rows
from milliseek.nas.quality.stage_quality import StageQuality
from milliseek.nas.search.proxy_trust import Trust, trust
from milliseek.spaces.space import random_space, random_subnet


def shown(told: Trust) -> dict[str, float | bool]:
    return {"tau": told.tau, "low": told.low, "high": told.high, "proven": told.proven}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--hyperspace", default="small32")
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--quality", help="name of a table of milliseek spaces quality")
    parser.add_argument("--weight-bits", type=int, default=7, choices=(7, 8))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON of all networks and their top-1, for milliseek proxies check")
    options = parser.parse_args()
    hyperspace = hyperspace_option(options.hyperspace)
    pictures = parse_data(options.data, max(hyperspace.resolutions))
    rng, plan = np.random.default_rng(options.seed), recipe(options.steps, options.weight_bits, options.seed, pictures)
    database = Database.open(f"sqlite:///{options.db.absolute()}")
    try:
        spaces = [random_space(hyperspace, rng) for _ in range(options.networks)]
        nsr = None
        if options.quality:
            table = find_table(database, options.quality)
            rows = table_rows(database, hyperspace, table)
            quality = StageQuality(hyperspace, rows, table.noise)
            subnets, nsr = zip(*(quality.random_subnet(space, rng) for space in spaces), strict=True)
        else:
            subnets = [random_subnet(space, rng) for space in spaces]
        top1 = []
        for done, subnet in enumerate(subnets, 1):
            top1.append(train_alone(database, subnet, pictures, plan).top1)
            print(f"{done}/{len(subnets)} {top1[-1]:.3f} {subnet.encoding}", file=sys.stderr, flush=True)
    finally:
        database.close()
    task = ProxyTask.of(pictures, options.seed)
    found = {name: shown(trust([proxy(s, task) for s in subnets], top1)) for name, proxy in PROXIES.items()}
    if nsr is not None:
        found["quality table"] = shown(trust([-value for value in nsr], top1))
    if options.out:
        rows_out = [{"subnet": s.encoding, "top1": value} for s, value in zip(subnets, top1, strict=True)]
        options.out.write_text(json.dumps({"networks": rows_out}))
    settings = {key: getattr(options, key) for key in ("data", "hyperspace", "networks", "steps", "seed")}
    spread = {"least": min(top1), "most": max(top1)}
    report("proxies", {**settings, "top1": spread, "proxies": found})


if __name__ == "__main__":
    main()
