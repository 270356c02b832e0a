"""Write tests/db/frozen/REVISION.db, a small database of the newest revision with a row in every table.

Run it once for each new revision, before release: `python tests/db/freeze.py`. Frozen files never change.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from milliseek.db import devices, jobs, measurements, networks, predictors, spaces, studies, tokens
from milliseek.db.artefacts import ArtefactStore, save_artefact
from milliseek.db.engine import Database
from milliseek.db.schema import HEAD

FROZEN = Path(__file__).with_name("frozen")


def fill(session: Session, store: ArtefactStore) -> None:
    device = devices.upsert_device(session, "epyc-1a2b", "local", {"cpu": "EPYC", "cores": 2}, "epyc")
    target = devices.get_or_create_target(
        session,
        "epyc-1a2b/onnxruntime/int8",
        device_id=device.id,
        runtime="onnxruntime",
        precision="int8",
        settings={"weight_bits": 7},
    )
    artefact = save_artefact(session, store, b"an artefact", "predictor")
    networks.get_or_create_model(session, artefact, format="onnx", name="net.onnx", info={"nodes": 3})
    (kernel,) = measurements.get_or_create_kernels(session, [("k1", "conv", {"cin": 3, "cout": 8})])
    visit = {
        "target_id": target.id,
        "latency_ms": 0.25,
        "spread_ms": 0.01,
        "runs": 30,
        "probe_before_ms": 0.1,
        "probe_after_ms": 0.11,
        "probe_best_ms": 0.1,
        "sitting": "9b2f6f0e-6a53-4b49-8d9c-3f1f5f0f3a11",
        "runtime_version": "1.31.0",
        "measured_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    measurements.add_measurements(
        session,
        [
            measurements.NewMeasurement(**visit, kernel_id=kernel),
            measurements.NewMeasurement(**visit, model_sha256=artefact, disturbed=True),
        ],
    )
    predictor = predictors.add_predictor(
        session,
        target.id,
        runtime_version="1.31.0",
        artefact_sha256=artefact,
        held_out={"within_10": 0.93},
        kernels=1000,
        networks=12,
    )
    hyperspace = spaces.get_or_create_hyperspace(session, "small32", {"stages": 4})
    space = spaces.get_or_create_space(session, "small32-1511-0212", hyperspace.id)
    subnet = spaces.get_or_create_subnet(session, space.id, "d1#2", macs=30_000_000, params=1_000_000)
    spaces.add_quality_rows(session, hyperspace.id, artefact, [spaces.QualityRow(1, 5, 0, 32, "d2w32", 0.4)])
    predictors.add_latency_table(
        session, predictor.id, space.encoding, "f1", artefact_sha256=artefact, constant_ms=0.05
    )
    supernet = studies.get_or_create_supernet(
        session, "digits", space_id=space.id, config={"epochs": 3}, data_fingerprint="d1", phase="float"
    )
    studies.update_supernet(session, "digits", phase="quantised", step=120, artefact_sha256=artefact)
    study = studies.get_or_create_study(
        session,
        "digits-subnets",
        kind="subnet",
        config={"budgets_ms": [1.0, 2.0]},
        predictors=[f"{target.name}@1"],
        space_id=space.id,
        supernet_id=supernet.id,
    )
    studies.add_export(
        session,
        subnet_id=subnet.id,
        target_id=target.id,
        format="onnx",
        precision="int8",
        artefact_sha256=artefact,
        path="out/a.onnx",
        size_bytes=11,
        study_id=study.id,
        trial_number=7,
        top1=0.97,
        top1_fake_quant=0.971,
        predicted_ms=0.9,
        interval_ms=(0.85, 0.95),
        measured_ms=0.92,
    )
    studies.get_or_create_run(session, "quickstart", {"minutes": 10})
    studies.finish_phase(session, "quickstart", "profile", {"predictor": 1})
    measure: dict[str, Any] = {"target": "epyc/onnxruntime/int8", "device": "epyc", "kind": "measure"}
    jobs.submit_jobs(
        session,
        [jobs.NewJob(key, **measure, options={"visits": 1}, payload_sha256=artefact, payload_bytes=11) for key in "ab"],
    )
    (job,) = jobs.lease_jobs(session, device.name, 1, 30.0)
    assert job.lease is not None
    jobs.complete_job(session, job.lease, device.name, {"visits": []}, None)
    tokens.create_token(session, "agent", "device", device.name)


def main() -> None:
    frozen = FROZEN / f"{HEAD}.db"
    if frozen.exists():
        raise SystemExit(f"{frozen} exists; frozen files never change")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "milliseek.db")
        database = Database.open(f"sqlite:///{source}")
        with database.session() as session:
            fill(session, database.artefacts)
        database.close()
        with closing(sqlite3.connect(source)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA page_size=512")  # with one page a table and index, the file stays small
            connection.execute("VACUUM INTO ?", (str(frozen),))
    print(f"{frozen}: {frozen.stat().st_size} bytes")


if __name__ == "__main__":
    main()
