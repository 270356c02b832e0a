"""Predictor versions and latency tables."""

from __future__ import annotations

from milliseek.db import devices, predictors


def add(session, target_id: int, artefact: str, kernels: int = 100):
    return predictors.add_predictor(
        session,
        target_id,
        runtime_version="1.31.0",
        artefact_sha256=artefact,
        held_out={"within_10": 0.93},
        kernels=kernels,
        networks=12,
    )


def test_versions_count_up_per_target(stock) -> None:
    name = "epyc-1a2b/onnxruntime/int8"
    with stock.database.session() as session:
        device = devices.find_device(session, "epyc-1a2b")
        other = devices.get_or_create_target(
            session,
            "epyc-1a2b/onnxruntime/fp32",
            device_id=device.id,
            runtime="onnxruntime",
            precision="fp32",
        )
        assert predictors.latest_predictor(session, name) is None
        assert [add(session, stock.target_id, stock.artefact, n).version for n in (100, 200, 400)] == [1, 2, 3]
        assert add(session, other.id, stock.artefact).version == 1
    with stock.database.session(read_only=True) as session:
        latest = predictors.latest_predictor(session, name)
        second = predictors.find_predictor(session, name, 2)
        assert predictors.find_predictor(session, name, 9) is None
        assert predictors.latest_predictor(session, "nobody/onnxruntime/int8") is None
        listed = predictors.list_predictors(session)
        of_target = predictors.list_predictors(session, name)
    assert (latest.version, latest.kernels, latest.held_out) == (3, 400, {"within_10": 0.93})
    assert (second.version, second.target.name) == (2, name)
    assert [(p.target.name[-4:], p.version) for p in listed] == [
        ("fp32", 1), ("int8", 1), ("int8", 2), ("int8", 3)
    ]  # fmt: skip
    assert [p.version for p in of_target] == [1, 2, 3]


def test_latency_table_is_kept_per_predictor_space_and_fingerprint(stock) -> None:
    with stock.database.session() as session:
        predictor = add(session, stock.target_id, stock.artefact)
        key = (predictor.id, "small32-1511-0212", "f1")
        assert predictors.find_latency_table(session, *key) is None
        table = predictors.add_latency_table(session, *key, artefact_sha256=stock.artefact, constant_ms=0.05)
        again = predictors.add_latency_table(session, *key, artefact_sha256=stock.model, constant_ms=9.0)
        assert again is table
        other = predictors.add_latency_table(
            session, predictor.id, "small32-1511-0212", "f2", artefact_sha256=stock.model, constant_ms=0.06
        )
        assert other is not table
    with stock.database.session(read_only=True) as session:
        found = predictors.find_latency_table(session, *key)
    assert (found.artefact_sha256, found.constant_ms) == (stock.artefact, 0.05)
