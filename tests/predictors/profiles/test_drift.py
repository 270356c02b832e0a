"""Drift: which kernels to measure again, what their ratios say, and one real check on this machine."""

import dataclasses

import numpy as np
import pytest

from milliseek.db.engine import Database
from milliseek.db.measurements import kernel_measurements
from milliseek.errors import NotFound, NotReady
from milliseek.predictors.models import report
from milliseek.predictors.models.physics import path
from milliseek.predictors.profiles.drift import MIN_REFERENCE_MS, Drift, MeasuredAgain, check, select_references
from milliseek.predictors.stored.versions import predictor_version
from milliseek.predictors.targets import device_target


def drift(kernel, *ratios):
    again = tuple(MeasuredAgain(kernel, 0.5, None if ratio is None else 0.5 * ratio) for ratio in ratios)
    return Drift("here/onnxruntime/fp32", "here/onnxruntime/fp32@1", "1.0", "1.0", again)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((1.0, 1.02, 0.97, 1.01), "holds"),
        ((1.0, 1.02, 0.97, 1.6), "holds"),  # most of them
        ((1.3, 1.31, 1.29, 1.3), "slower"),
        ((0.7, 0.71, 0.72, 0.7), "faster"),
        ((1.0, 1.0, 1.0, 1.5, 1.5), "changed"),
        ((1.0, 1.3, 1.6, 2.0), "changed"),
    ],
)
def test_the_verdict(made_up, ratios, verdict):
    found = drift(made_up.report.references[0].kernel, *ratios)
    assert found.verdict == verdict
    assert found.factor == pytest.approx(np.median(ratios))
    assert found.holds == (verdict == "holds") == (found.remedy == "")
    assert found.holds or found.remedy.endswith("milliseek profile here/onnxruntime/fp32")


def test_kernels_without_a_quiet_visit_do_not_count(made_up):
    found = drift(made_up.report.references[0].kernel, 1.0, None, 1.02)
    assert found.factor == pytest.approx(1.01)
    assert [each.ratio for each in found.kernels] == [1.0, None, pytest.approx(1.02)]


def test_references_are_spread_over_paths_and_latencies(make):
    kernels = [make.qconv(cin, cout, 14) for cin in (8, 16, 24, 40) for cout in (8, 16, 24, 40)]
    kernels += [make.qconv(8, cout, 14, kernel=3) for cout in (8, 16)] + [make.gemm(64, 10)]
    measured = dict(zip(kernels, np.geomspace(MIN_REFERENCE_MS, 10, len(kernels)), strict=True))
    chosen = select_references(measured, count=8)
    assert len({each.kernel for each in chosen}) == 8
    assert all(each.latency_ms == measured[each.kernel] for each in chosen)
    assert {path(each.kernel) for each in chosen} == {path(kernel) for kernel in kernels}
    pointwise = [each.latency_ms for each in chosen if path(each.kernel) == path(kernels[0])]
    assert max(pointwise) / min(pointwise) > 10
    assert chosen == select_references(measured, count=8)
    assert chosen != select_references(measured, count=8, seed=1)


def test_short_kernels_are_chosen_only_where_there_is_nothing_else(make):
    kernels = [make.gemm(64, cout) for cout in range(1, 41)]
    mixed = {kernel: MIN_REFERENCE_MS * (0.01 if i % 2 else 2) for i, kernel in enumerate(kernels)}
    assert {each.latency_ms for each in select_references(mixed)} == {2 * MIN_REFERENCE_MS}
    short = {kernel: 1e-4 * i for i, kernel in enumerate(kernels)}
    assert min(each.latency_ms for each in select_references(short)) == pytest.approx(1e-4 * 28)
    assert len(select_references(dict(list(mixed.items())[:5]))) == 5
    assert select_references({}) == ()


@pytest.fixture
def database(tmp_path):
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield database
    database.close()


def test_a_check_on_this_machine(database, made_up, keep):
    """The made-up predictor says that matrix products take a second: whatever this machine is, it is faster."""
    slow = tuple(report.ReferenceKernel(each.kernel, 1000.0) for each in made_up.report.references)
    told = dataclasses.replace(made_up.report, references=slow)
    name = keep(database, dataclasses.replace(made_up, report=told))
    rounds = []
    found = check(
        database, predictor_version(database, name), visits=2, on_progress=lambda *progress: rounds.append(progress)
    )
    assert (found.predictor, found.verdict, found.fitted_version) == (name, "faster", "1.0.0")
    assert 0 < found.factor < 0.5
    target = device_target(database, made_up.target)
    assert found.runtime_version == target.runtime_version
    assert rounds[:2] == [(1, 2), (2, 2)]
    with database.session(read_only=True) as session:
        rows = kernel_measurements(session, target.row_id, include_disturbed=True)
    assert len(rows) >= 2 * len(slow), "every visit is kept"
    assert len({row.sitting for row in rows}) == 1
    quiet = [row.latency_ms for row in rows if row.hash == slow[0].kernel.hash and not row.disturbed]
    assert found.kernels[0].measured_ms == min(quiet, default=None)


def test_a_predictor_without_references(database, made_up, keep):
    name = keep(database, dataclasses.replace(made_up, report=report.Report()))
    with pytest.raises(NotReady, match="no reference kernels"):
        check(database, predictor_version(database, name))


def test_a_predictor_of_another_machine(database, made_up, keep):
    version = predictor_version(database, keep(database, made_up))
    elsewhere = dataclasses.replace(made_up, target="pixel6/onnxruntime/fp32")
    with pytest.raises(NotFound, match="not this machine"):
        check(database, dataclasses.replace(version, predictor=elsewhere))
