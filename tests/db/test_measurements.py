"""Kernels and measurements: bulk in, joined out, never changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, event, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, InternalError

from milliseek.db import measurements, networks
from milliseek.db.measurements import NewMeasurement
from milliseek.db.models import Kernel, Measurement

MEASURED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def of_kernel(target_id: int, kernel_id: int, latency_ms: float = 0.5) -> NewMeasurement:
    return NewMeasurement(
        target_id=target_id,
        kernel_id=kernel_id,
        latency_ms=latency_ms,
        spread_ms=0.01,
        runs=30,
        probe_before_ms=0.1,
        probe_after_ms=0.11,
        probe_best_ms=0.1,
        sitting="9b2f6f0e",
        runtime_version="1.31.0",
        measured_at=MEASURED_AT,
    )


@pytest.fixture
def kernel_id(stock) -> int:
    with stock.database.session() as session:
        (id_,) = measurements.get_or_create_kernels(session, [("k1", "conv", {"cin": 3})])
    return id_


def test_kernels_are_created_once_and_ids_follow_the_order_asked(database) -> None:
    with database.session() as session:
        a, b = measurements.get_or_create_kernels(session, [("a", "conv", {"cin": 1}), ("b", "add", {})])
    with database.session() as session:
        ids = measurements.get_or_create_kernels(
            session, [("b", "add", {}), ("c", "pool", {}), ("a", "conv", {}), ("b", "add", {})]
        )
        assert session.scalar(select(func.count()).select_from(Kernel)) == 3
        assert session.scalar(select(Kernel.spec).where(Kernel.hash == "a")) == {"cin": 1}
        assert measurements.get_or_create_kernels(session, []) == []
    assert (ids[0], ids[2], ids[3]) == (b, a, b)


def test_measurement_comes_back_with_the_spec_of_its_kernel(stock, kernel_id) -> None:
    with stock.database.session() as session:
        measurements.add_measurements(session, [of_kernel(stock.target_id, kernel_id, 0.25)])
        measurements.add_measurements(session, [])
    with stock.database.session(read_only=True) as session:
        (row,) = measurements.kernel_measurements(session, stock.target_id)
    assert row == measurements.KernelMeasurement(
        kernel_id=kernel_id,
        hash="k1",
        kind="conv",
        spec={"cin": 3},
        latency_ms=0.25,
        spread_ms=0.01,
        runs=30,
        probe_before_ms=0.1,
        probe_after_ms=0.11,
        probe_best_ms=0.1,
        disturbed=False,
        sitting="9b2f6f0e",
        runtime_version="1.31.0",
        measured_at=MEASURED_AT,
    )


def test_measurements_of_networks_are_listed_apart(stock, kernel_id) -> None:
    kernel = of_kernel(stock.target_id, kernel_id)
    model = replace(kernel, kernel_id=None, model_sha256=stock.model, latency_ms=12.5, spread_ms=None)
    with stock.database.session() as session:
        measurements.add_measurements(session, [kernel, model])
    with stock.database.session(read_only=True) as session:
        (row,) = measurements.model_measurements(session, stock.target_id)
        assert len(measurements.kernel_measurements(session, stock.target_id)) == 1
        assert measurements.count_measurements(session, stock.target_id) == (1, 1)
        assert measurements.count_measurements(session, stock.target_id + 1) == (0, 0)
        assert measurements.model_measurements(session, stock.target_id + 1) == []
    assert (row.sha256, row.format, row.name) == (stock.model, "onnx", "net.onnx")
    assert (row.latency_ms, row.spread_ms) == (12.5, None)


def test_disturbed_and_old_measurements_are_left_out_on_request(stock, kernel_id) -> None:
    good = of_kernel(stock.target_id, kernel_id, 1.0)
    rows = [
        good,
        replace(good, latency_ms=2.0, disturbed=True),
        replace(good, latency_ms=3.0, runtime_version="1.30.0", measured_at=MEASURED_AT - timedelta(days=90)),
    ]
    with stock.database.session() as session:
        measurements.add_measurements(session, rows)

    def latencies(**filters) -> list[float]:
        with stock.database.session(read_only=True) as session:
            found = measurements.kernel_measurements(session, stock.target_id, **filters)
        return [row.latency_ms for row in found]

    assert latencies() == [1.0, 3.0]
    assert latencies(include_disturbed=True) == [1.0, 2.0, 3.0]
    assert latencies(runtime_version="1.31.0") == [1.0]


@pytest.mark.parametrize(
    "statement",
    [
        update(Measurement).values(latency_ms=0.0),
        delete(Measurement),
        text("UPDATE ms_measurement SET disturbed = NOT disturbed"),
        text("DELETE FROM ms_measurement"),
    ],
    ids=str,
)
def test_measurements_are_append_only(stock, kernel_id, statement) -> None:
    with stock.database.session() as session:
        measurements.add_measurements(session, [of_kernel(stock.target_id, kernel_id)])
    with pytest.raises(IntegrityError, match="append-only"), stock.database.session() as session:
        session.execute(statement)
    with stock.database.session(read_only=True) as session:
        assert len(measurements.kernel_measurements(session, stock.target_id)) == 1


def test_a_measurement_has_exactly_one_subject(stock, kernel_id) -> None:
    row = of_kernel(stock.target_id, kernel_id)
    for subjects in ({"kernel_id": None}, {"model_sha256": stock.model}):
        with pytest.raises(ValueError, match="either a kernel or a model"):
            replace(row, **subjects)
        values = {**vars(row), **subjects}
        with pytest.raises(IntegrityError, match="one_subject"), stock.database.session() as session:
            session.execute(insert(Measurement), [values])


@pytest.mark.parametrize("unknown", [{"target_id": 99}, {"kernel_id": 99}])
def test_a_measurement_needs_its_target_and_kernel(stock, kernel_id, unknown) -> None:
    row = replace(of_kernel(stock.target_id, kernel_id), **unknown)
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"), stock.database.session() as session:
        measurements.add_measurements(session, [row])


def test_thousands_take_a_handful_of_statements(stock) -> None:
    kernels = [(f"h{i}", "conv", {"cin": i, "cout": 2 * i}) for i in range(2000)]
    statements: list[str] = []

    def note(_connection, _cursor, statement, *_rest) -> None:
        statements.append(statement)

    with stock.database.session() as session:
        engine = session.get_bind()
        event.listen(engine, "before_cursor_execute", note)
        ids = measurements.get_or_create_kernels(session, kernels)
        measurements.add_measurements(session, [of_kernel(stock.target_id, id_) for id_ in ids])
        rows = measurements.kernel_measurements(session, stock.target_id)
        event.remove(engine, "before_cursor_execute", note)
    assert [row.spec["cin"] for row in rows] == list(range(2000))
    assert len(statements) < 30


def test_models_are_found_by_hash(stock) -> None:
    with stock.database.session() as session:
        again = networks.get_or_create_model(session, stock.model, format="onnx", name="other name")
        assert again.name == "net.onnx"
        assert networks.find_model(session, stock.model) is again
        assert networks.find_model(session, "0" * 64) is None
        assert list(networks.list_models(session)) == [again]
        with pytest.raises((IntegrityError, InternalError), match=r"(?i)foreign key"):
            networks.get_or_create_model(session, "0" * 64, format="onnx", name="without artefact")
