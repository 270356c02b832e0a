"""Space evolution on SpaceEvo's published tables: seconds, and the exact winner against Monte Carlo's.

    space_evolution.py --tables FILE_OR_FOLDER [--evaluations 5000] [--without-montecarlo]

Both winners are scored again by Monte Carlo with other random numbers, in the paper's mode of independent stages.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import report

from milliseek.db.engine import Database
from milliseek.nas.design.published_tables import PublishedTables
from milliseek.nas.design.score import MonteCarloScorer, ScoreKind
from milliseek.nas.design.scorers import TimedScorer, make_scorer
from milliseek.nas.design.table_search import evolve_on_tables
from milliseek.spaces.hyperspace import hyperspace_named
from milliseek.spaces.space import Space


def evolve(tables: PublishedTables, kind: ScoreKind, options: argparse.Namespace) -> dict[str, Any]:
    """The winner of one evolution from an empty database, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        started, cpu = time.monotonic(), time.process_time()
        database = Database.open(f"sqlite:///{Path(folder) / 'milliseek.db'}")
        scorer = make_scorer(kind, tables, options.constraints, samples=options.samples, seed=options.seed)
        timed = TimedScorer(scorer)
        ranking = evolve_on_tables(
            database, tables, timed, "benchmark", kind, evaluations=options.evaluations, seed=options.seed
        )
        database.close()
    best = ranking[0]
    return {
        "seconds_scoring": round(timed.seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "spaces": len(ranking),
        "best": {"space": best.space.encoding, "score": best.score, "p": best.p, "quality": best.quality},
    }


def scored_again(tables: PublishedTables, space: Space, options: argparse.Namespace) -> dict[str, float]:
    scores = []
    for seed in range(1000, 1000 + options.rescorings):
        scorer = MonteCarloScorer(tables, options.constraints, samples=options.rescoring_samples, seed=seed)
        scores.append(scorer.score(space).score)
    error = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
    return {"mean": float(np.mean(scores)), "standard_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--hyperspace", default="onnxw")
    parser.add_argument("--constraints", type=float, nargs="+", default=[15.0])
    parser.add_argument("--evaluations", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--rescorings", type=int, default=10)
    parser.add_argument("--rescoring-samples", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-montecarlo", action="store_true")
    options = parser.parse_args()
    tables = PublishedTables(hyperspace_named(options.hyperspace), options.tables)
    kinds: list[ScoreKind] = ["exact"] if options.without_montecarlo else ["exact", "montecarlo"]
    figures: dict[str, Any] = {}
    for kind in kinds:
        found = evolve(tables, kind, options)
        found["scored_again"] = scored_again(tables, Space.decode(found["best"]["space"]), options)
        figures[kind] = found
    if "montecarlo" in figures:
        exact, sampled = (figures[kind]["scored_again"] for kind in kinds)
        error = float(np.hypot(exact["standard_error"], sampled["standard_error"]))
        figures["exact_minus_montecarlo"] = {"mean": exact["mean"] - sampled["mean"], "standard_error": error}
    settings = {key: getattr(options, key) for key in ("hyperspace", "constraints", "evaluations", "samples", "seed")}
    report("space_evolution", {**settings, **figures})


if __name__ == "__main__":
    main()
