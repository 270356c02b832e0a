"""Supernets, studies, exports and runs."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from milliseek.db import spaces, studies
from milliseek.errors import NotFound


def supernet(session, stock, name: str = "digits"):
    return studies.get_or_create_supernet(
        session, name, space_id=stock.space_id, config={"epochs": 3}, data_fingerprint="d1", phase="float"
    )


def test_supernet_remembers_its_latest_checkpoint(stock) -> None:
    with stock.database.session() as session:
        new = supernet(session, stock)
        assert (new.phase, new.step, new.artefact_sha256) == ("float", 0, None)
        update = {"phase": "quantised", "step": 10}
        assert studies.update_supernet(session, "digits", **update, artefact_sha256=stock.artefact) is None
        assert supernet(session, stock).step == 10
    with stock.database.session() as session:
        update["step"] = 20
        assert studies.update_supernet(session, "digits", **update, artefact_sha256=stock.artefact) is None
        replaced = studies.update_supernet(session, "digits", **update, artefact_sha256=stock.model)
        assert replaced == stock.artefact
        supernet(session, stock, "another")
    with stock.database.session(read_only=True) as session:
        found = studies.get_supernet(session, "digits")
        assert [net.name for net in studies.list_supernets(session)] == ["another", "digits"]
        assert studies.list_supernets(session, space_id=99) == []
        assert studies.find_supernet(session, "cats") is None
        with pytest.raises(NotFound, match="milliseek supernet train"):
            studies.get_supernet(session, "cats")
    assert (found.phase, found.step, found.artefact_sha256) == ("quantised", 20, stock.model)
    assert found.space.encoding == "small32-1511-0212"
    with pytest.raises(NotFound), stock.database.session() as session:
        studies.update_supernet(session, "cats", phase="float", step=1, artefact_sha256=stock.model)


def test_study_is_created_once_and_listed_by_kind(stock) -> None:
    with stock.database.session() as session:
        net = supernet(session, stock)
        first = studies.get_or_create_study(
            session, "evolve", kind="space", config={"population": 500}, space_id=stock.space_id
        )
        second = studies.get_or_create_study(
            session, "search", kind="subnet", config={}, predictors=["t@1"], supernet_id=net.id
        )
        assert studies.get_or_create_study(session, "evolve", kind="space", config={}) is first
        studies.update_study(session, "search", predictors=["t@1", "t@2"])
    with stock.database.session(read_only=True) as session:
        assert [study.name for study in studies.list_studies(session)] == ["evolve", "search"]
        assert [study.name for study in studies.list_studies(session, "subnet")] == ["search"]
        assert studies.get_study(session, "evolve").config == {"population": 500}
        assert studies.get_study(session, "search").predictors == ["t@1", "t@2"]
        assert studies.find_study(session, "nothing") is None
        with pytest.raises(NotFound, match="no study 'nothing'"):
            studies.get_study(session, "nothing")
    assert (second.supernet_id, second.space_id) == (net.id, None)


def test_study_is_of_a_known_kind(stock) -> None:
    with pytest.raises(IntegrityError, match="ms_study_kind"), stock.database.session() as session:
        studies.get_or_create_study(session, "x", kind="other", config={})


def test_export_is_added_then_completed(stock) -> None:
    with stock.database.session() as session:
        subnet = spaces.get_or_create_subnet(session, stock.space_id, "d1#2", macs=1, params=1)
        study = studies.get_or_create_study(session, "search", kind="subnet", config={})
        common = {
            "subnet_id": subnet.id,
            "target_id": stock.target_id,
            "format": "onnx",
            "precision": "int8",
            "artefact_sha256": stock.model,
        }
        export = studies.add_export(
            session,
            **common,
            path="out/a.onnx",
            size_bytes=7,
            study_id=study.id,
            trial_number=3,
            predicted_ms=0.9,
            interval_ms=(0.8, 1.0),
        )
        studies.add_export(session, **common, path="out/b.onnx", size_bytes=8, info={"by": "hand"})
    with stock.database.session() as session:
        studies.update_export(session, export.id, top1=0.97, measured_ms=0.91)
    with stock.database.session(read_only=True) as session:
        found = studies.get_export(session, export.id)
        assert [e.path for e in studies.list_exports(session)] == ["out/a.onnx", "out/b.onnx"]
        assert [e.path for e in studies.list_exports(session, study_id=study.id)] == ["out/a.onnx"]
        assert len(studies.list_exports(session, target="epyc-1a2b/onnxruntime/int8")) == 2
        assert studies.list_exports(session, target="nobody/onnxruntime/int8") == []
        with pytest.raises(NotFound, match="export number 99"):
            studies.get_export(session, 99)
    assert (found.predicted_ms, found.interval_low_ms, found.interval_high_ms) == (0.9, 0.8, 1.0)
    assert (found.top1, found.top1_fake_quant, found.measured_ms, found.info) == (0.97, None, 0.91, {})
    assert (found.subnet.encoding, found.subnet.space.encoding) == ("d1#2", "small32-1511-0212")
    assert found.target.name == "epyc-1a2b/onnxruntime/int8"


def test_run_is_resumed_where_it_stopped(database) -> None:
    with database.session() as session:
        run = studies.get_or_create_run(session, "quickstart", {"minutes": 10})
        assert (run.state, run.finished) == ({}, False)
    with database.session() as session:
        studies.finish_phase(session, "quickstart", "profile", {"predictor": 1})
    with database.session() as session:
        run = studies.get_or_create_run(session, "quickstart", {"minutes": 99})
        assert (run.config, run.state, run.finished) == (
            {"minutes": 10}, {"profile": {"predictor": 1}}, False
        )  # fmt: skip
        studies.finish_phase(session, "quickstart", "search", {"trials": 40}, last=True)
    with database.session(read_only=True) as session:
        found = studies.find_run(session, "quickstart")
        assert [run.name for run in studies.list_runs(session)] == ["quickstart"]
        assert studies.find_run(session, "other") is None
    assert (found.state, found.finished) == (
        {"profile": {"predictor": 1}, "search": {"trials": 40}}, True
    )  # fmt: skip
    with pytest.raises(NotFound, match="no run 'other'"), database.session() as session:
        studies.finish_phase(session, "other", "profile", {})
