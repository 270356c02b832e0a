"""Predicted against measured latency of random networks that were in no training or calibration set."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import report

from milliseek import config
from milliseek.client import LatencyClient
from milliseek.db.engine import Database
from milliseek.predictors.evaluation import EvaluatedModel, measure_models, summary
from milliseek.predictors.networks import sample_networks
from milliseek.predictors.profiling import profile
from milliseek.predictors.service import LatencyService
from milliseek.predictors.targets import local_target
from milliseek.rpc.server import InProcessServer
from milliseek.spaces.hyperspace import hyperspace_named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="local/onnxruntime/int8")
    parser.add_argument("--hyperspace", nargs="+", default=["tiny32"])
    parser.add_argument("--budget-seconds", type=float, default=120.0)
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1234, help="of the networks; profiling uses another one")
    options = parser.parse_args()
    hyperspaces = [hyperspace_named(name) for name in options.hyperspace]
    with tempfile.TemporaryDirectory() as home:
        database = Database.open(config.database_url(str(Path(home, "m.db"))))
        target = local_target(database, options.target)
        profiled = profile(database, target, hyperspaces, options.budget_seconds, seed=0)
        files = sample_networks(hyperspaces, options.networks, target, np.random.default_rng(options.seed))
        with (
            LatencyService(database) as service,
            InProcessServer(service) as server,
            LatencyClient(server.address) as client,
        ):
            predictions = [client.predict(data, target.name) for _, data in files]
        measured = measure_models(database, target, files)
        database.close()
    models = [
        EvaluatedModel(m.path, p.latency_ms, p.interval_ms, m.latency_ms, p.uncovered, m.disturbed, m.notes)
        for p, m in zip(predictions, measured, strict=True)
    ]
    report(
        "predictor_accuracy",
        {
            "target": options.target,
            "hyperspaces": options.hyperspace,
            "profile_seconds": profiled.seconds,
            "kernels": profiled.kernels,
            "held_out": profiled.held_out,
            "networks": len(models),
            "disturbed": sum(m.disturbed for m in models),
            **summary(models),
            "models": [
                {"subnet": m.path, "predicted_ms": m.predicted_ms, "measured_ms": m.measured_ms, "error": m.error}
                for m in models
            ],
        },
    )


if __name__ == "__main__":
    main()
