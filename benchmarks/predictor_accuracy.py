"""Predicted against measured latency of networks that were in no training or calibration set.

    predictor_accuracy.py --target local/onnxruntime/fp32 --budget 15m --files FOLDER > fp32.json
    predictor_accuracy.py --pool fp32.json int8.json ...

The first form profiles a target from nothing in a new database, then predicts and measures every model file of the
folder (see published.py); without --files it takes random subnets of the hyperspaces. With --from BASE that target is
profiled first, if the database has no predictor of it, and the other one adapted from it. --refit fits the present code
to what a database holds, and compares that with the measurements of the files there. The second form puts the
outcomes of several targets together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import report, wilson

from milliseek import config
from milliseek.cli.options import seconds
from milliseek.db.engine import Database
from milliseek.db.measurements import model_measurements
from milliseek.errors import MilliseekError, NotFound, NotReady
from milliseek.predictors.conversions import cache_folder
from milliseek.predictors.networks.files import prepare, sample_networks
from milliseek.predictors.profiles.evaluation import EvaluatedModel, MeasuredModel, measure_models, summary
from milliseek.predictors.profiles.profiling import Profile, profile
from milliseek.predictors.service import LatencyService
from milliseek.predictors.stored.versions import newest_predictor
from milliseek.predictors.targets import DeviceTarget, device_target
from milliseek.spaces.hyperspace import HYPERSPACES, hyperspace_named

SUBNETS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="local/onnxruntime/int8")
    parser.add_argument("--budget", type=seconds, default=900.0)
    parser.add_argument("--from", dest="base", help="target to profile first and to adapt from")
    parser.add_argument("--base-budget", type=seconds, default=900.0)
    parser.add_argument("--kernels", type=int, default=100, help="with --from")
    parser.add_argument("--hyperspace", nargs="+", help="profile these alone; default: published networks and all")
    parser.add_argument("--files", type=Path, help="folder of ONNX or TFLite files")
    parser.add_argument("--db", help="database to keep; default: a temporary one")
    parser.add_argument("--refit", action="store_true", help="with --db: measure nothing but a second's worth")
    parser.add_argument("--pool", nargs="+", type=Path, help="outcomes to put together")
    options = parser.parse_args()
    if options.pool:
        report("predictor_accuracy", pooled([json.loads(path.read_text()) for path in options.pool]))
        return
    with tempfile.TemporaryDirectory() as home:
        database = Database.open(config.database_url(options.db or str(Path(home, "m.db"))))
        figures = run(database, options)
        database.close()
    report("predictor_accuracy", figures)


def run(database: Database, options: argparse.Namespace) -> dict[str, Any]:
    sources = [hyperspace_named(name) for name in options.hyperspace or HYPERSPACES]
    target = device_target(database, options.target)
    published = not options.hyperspace
    base = None
    if options.base:
        try:
            base = newest_predictor(database, options.base)
        except (NotFound, NotReady):
            profile(database, device_target(database, options.base), sources, options.base_budget, published=published)
            base = newest_predictor(database, options.base)
    made = profile(
        database,
        target,
        sources,
        1.0 if options.refit else options.budget,
        published=published,
        add=options.refit,
        base=base,
        max_kernels=options.kernels if base else None,
    )
    names, files = networks(target, options)
    models, failures = evaluate(database, target, names, files, stored=options.refit)
    return outcome(options, made, models, failures)


def networks(target: DeviceTarget, options: argparse.Namespace) -> tuple[list[str], list[bytes]]:
    if options.files is None:
        sources = [hyperspace_named(name) for name in options.hyperspace or HYPERSPACES]
        drawn = sample_networks(sources, SUBNETS, target, np.random.default_rng(1234))
        return [name for name, _ in drawn], [model.data for _, model in drawn]
    paths = sorted(path for path in options.files.iterdir() if path.suffix in (".onnx", ".tflite"))
    return [path.stem for path in paths], [path.read_bytes() for path in paths]


def evaluate(
    database: Database, target: DeviceTarget, names: list[str], files: list[bytes], *, stored: bool
) -> tuple[list[EvaluatedModel], dict[str, str]]:
    """Predictions and measurements, and the networks that the target cannot take with the reason."""
    predictions, failures = {}, {}
    with LatencyService(database) as service:
        for name, data in zip(names, files, strict=True):
            try:
                predictions[name] = service.predict_model(service.store_model(data, name), target.name)
            except MilliseekError as error:
                failures[name] = error.message
    usable = [(name, data) for name, data in zip(names, files, strict=True) if name in predictions]
    models = []
    for measured in (stored_measurements if stored else measure_models)(database, target, usable):
        predicted = predictions[measured.path]
        models.append(
            EvaluatedModel(
                measured.path,
                predicted.latency_ms,
                predicted.interval_ms,
                measured.latency_ms,
                predicted.uncovered,
                measured.disturbed,
                measured.notes,
            )
        )
    return models, failures


def stored_measurements(
    database: Database, target: DeviceTarget, files: list[tuple[str, bytes]]
) -> list[MeasuredModel]:
    visits: dict[str, list[float]] = defaultdict(list)
    with database.session(read_only=True) as session:
        for row in model_measurements(session, target.row_id, runtime_version=target.runtime_version):
            visits[row.sha256].append(row.latency_ms)
    found = []
    for name, data in files:
        prepared = prepare(cache_folder(database), data, target, name)
        if seen := visits[hashlib.sha256(prepared.data).hexdigest()]:
            found.append(MeasuredModel(name, min(seen), len(seen), disturbed=False, notes=prepared.notes))
    return found


def outcome(
    options: argparse.Namespace, made: Profile, models: list[EvaluatedModel], failures: dict[str, str]
) -> dict[str, Any]:
    return {
        "target": options.target,
        "from": options.base,
        "budget_seconds": options.budget,
        "profile_seconds": made.seconds,
        "kernels": made.kernels,
        "calibration_networks": made.networks,
        "held_out": made.held_out,
        **with_bounds(summary(models), len(models)),
        "disturbed": sum(model.disturbed for model in models),
        "failures": failures,
        "models": [
            {
                "name": model.path,
                "predicted_ms": model.predicted_ms,
                "interval_ms": model.interval_ms,
                "measured_ms": model.measured_ms,
                "error": model.error,
                "uncovered": model.uncovered,
            }
            for model in models
        ],
    }


def with_bounds(figures: dict[str, float], n: int) -> dict[str, Any]:
    bounds = {f"{key}_bounds": wilson(figures[key], n) for key in ("within_5", "within_10", "coverage")}
    return {"networks": n, **figures, **bounds}


def pooled(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [(outcome["target"], model) for outcome in outcomes for model in outcome["models"]]
    models = [
        EvaluatedModel(
            f"{model['name']} on {target}",
            model["predicted_ms"],
            tuple(model["interval_ms"]),
            model["measured_ms"],
            model["uncovered"],
            False,
            (),
        )
        for target, model in rows
    ]
    return {
        "targets": {
            outcome["target"]: {key: outcome[key] for key in ("networks", "mape", "within_5", "within_10", "coverage")}
            for outcome in outcomes
        },
        **with_bounds(summary(models), len(models)),
        "outside_10": sorted(f"{model.path}: {100 * model.error:+.1f} %" for model in models if abs(model.error) > 0.1),
    }


if __name__ == "__main__":
    main()
