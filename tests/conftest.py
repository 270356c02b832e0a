"""A predictor fitted on made-up measurements, for tests of whatever needs one and measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from milliseek.db.engine import Database
    from milliseek.predictors.predictor import Predictor

WIDTHS = (256, 512, 768, 1024)


@pytest.fixture(scope="session")
def made_up() -> Predictor:
    """fp32 matrix products of this machine that take 1 us and 0.1 us per 1000 products, and a report about them."""
    import numpy as np

    from milliseek.devices.facts import local_facts
    from milliseek.kernels.kernel import Kernel, TensorSpec
    from milliseek.predictors import report
    from milliseek.predictors.correction import Correction
    from milliseek.predictors.drift import select_references
    from milliseek.predictors.kernel_model import fit_kernel_model
    from milliseek.predictors.predictor import Predictor

    def gemm(cin: int, cout: int) -> Kernel:
        weights, bias = (TensorSpec(shape, "float32", constant=True) for shape in ((cout, cin), (cout,)))
        inputs = (TensorSpec((1, cin), "float32"), weights, bias)
        return Kernel("", "Gemm", (("transB", 1),), inputs, (TensorSpec((1, cout), "float32"),), opset=13)

    measured = {gemm(cin, cout): 1e-3 + 1e-7 * cin * cout for cin in WIDTHS for cout in WIDTHS}
    errors = np.random.default_rng(0).normal(0, 0.05, 40)
    told = report.Report(
        kernels=tuple(
            report.TestedKernel(
                f"{i:064x}", "Gemm" if i % 4 else "Softmax", 0.01 * (i + 1), 0.01 * (i + 1) * (1 + error)
            )
            for i, error in enumerate(errors)
        ),
        networks=tuple(report.TestedNetwork(f"net{i}", 2.0 + i, (2.0 + i) * (1 + errors[i])) for i in range(6)),
        curve=tuple(report.CurvePoint(10.0 * i, 50 * i, 0.1 * i, min(1.0, 0.15 * i)) for i in range(1, 7)),
        references=select_references(measured, count=4),
    )
    return Predictor(
        f"{local_facts().id}/onnxruntime/fp32",
        "1.0.0",
        fit_kernel_model(list(measured), np.array(list(measured.values()))),
        Correction(1.02, 0.002, 0.03, 0.004, 2.0, 0.02, (0.01, -0.02)),
        told,
    )


@pytest.fixture(scope="session")
def keep() -> Callable[[Database, Predictor], str]:
    """Store a predictor of this machine as the next version of its target; returns `TARGET@VERSION`."""

    def store(database: Database, predictor: Predictor) -> str:
        from milliseek.db.artefacts import save_artefact
        from milliseek.db.predictors import add_predictor
        from milliseek.predictors.predictor import to_bytes
        from milliseek.predictors.targets import local_target

        target = local_target(database, predictor.target)
        held_out: dict[str, Any] = predictor.report.figures(predictor.correction.interval)
        with database.session() as session:
            row = add_predictor(
                session,
                target.row_id,
                runtime_version=predictor.runtime_version,
                artefact_sha256=save_artefact(session, database.artefacts, to_bytes(predictor), "predictor"),
                held_out={**held_out["held_out_kernels"], "networks": held_out["held_out_networks"]},
                kernels=16,
                networks=6,
            )
            return f"{target.name}@{row.version}"

    return store


@pytest.fixture
def home(tmp_path: Path, made_up: Predictor, keep: Callable[[Database, Predictor], str]) -> Path:
    """A MILLISEEK_HOME whose database holds the made-up predictor."""
    from milliseek.db.engine import Database

    folder = tmp_path / "home"
    database = Database.open(f"sqlite:///{folder / 'milliseek.db'}")
    keep(database, made_up)
    database.close()
    return folder
