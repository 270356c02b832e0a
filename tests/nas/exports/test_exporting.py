"""Exports from end to end: files, cards and rows; measuring is left out, the service made up."""

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from milliseek.db import spaces as space_queries
from milliseek.db import studies as queries
from milliseek.db.artefacts import save_artefact
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, NotReady, StorageError
from milliseek.nas.exports import exporting, standalone
from milliseek.nas.exports.export import FileForm
from milliseek.nas.exports.export_targets import export_targets
from milliseek.nas.exports.exporting import ExportOptions, export_subnets
from milliseek.nas.exports.fine_tuning import with_weight_bits
from milliseek.nas.search.subnet_studies import SearchPlan
from milliseek.nas.training.budget import Budget
from milliseek.predictors.profiles.evaluation import MeasuredModel
from milliseek.predictors.targets import device_target
from milliseek.results import Prediction, TargetInfo
from milliseek.spaces.definition import definition

FORMS = tuple(FileForm(format_, precision) for format_ in ("onnx", "tflite") for precision in ("int8", "fp32"))
TARGET = "local/onnxruntime/int8"
MEASURED_MS = 0.25


class Service:
    """Predicts 0.2 ms on the targets that it knows."""

    def __init__(self, *known):
        self.known = known

    def targets(self):
        return [TargetInfo(name, f"{name}@1", "1.0") for name in self.known]

    def predict(self, model, target):
        assert target in self.known
        return Prediction(target, f"{target}@1", 0.2, (0.18, 0.22))


@pytest.fixture
def database(tmp_path, trained):
    """With a finished supernet and a study of its subnets for this machine."""
    opened = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    space, data = trained.subnet.space, trained.pictures.fingerprint
    target = device_target(opened, TARGET)
    with opened.session() as session:
        hyperspace = space_queries.get_or_create_hyperspace(
            session, space.hyperspace.name, definition(space.hyperspace)
        )
        space_id = space_queries.get_or_create_space(session, space.encoding, hyperspace.id).id
        supernet = queries.get_or_create_supernet(
            session, "net", space_id=space_id, config={}, data_fingerprint=data, phase="finished"
        )
        state = save_artefact(session, opened.artefacts, trained.training.state(), "checkpoint")
        queries.update_supernet(session, "net", phase="finished", step=80, artefact_sha256=state)
        queries.get_or_create_study(
            session,
            "my/study",
            kind="subnet",
            config={**SearchPlan.within(target.name, (1.0,)).config, "data": data},
            predictors=[f"{target.name}@1"],
            space_id=space_id,
            supernet_id=supernet.id,
        )
    yield opened
    opened.close()


@pytest.fixture
def service(database):
    return Service(device_target(database, TARGET).name)


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """What was measured: (target, file names) in order."""
    seen = []

    def measure(database, target, files, *, on_progress):
        seen.append((target.name, [name for name, _ in files]))
        return [MeasuredModel(name, MEASURED_MS, 5, False, ()) for name, _ in files]

    monkeypatch.setattr(exporting, "measure_models", measure)
    return seen


def run(database, service, trained, folder, targets, options, supernet=None):
    supernet = supernet or trained.supernet
    return export_subnets(
        database, service, targets, supernet, trained.pictures, "my/study", {7: trained.subnet}, folder, options
    )


def test_every_form_becomes_a_file_with_a_card_and_rows(database, service, trained, tmp_path, measured):
    targets = export_targets(database, service, "my/study", FORMS)
    assert [str(FileForm.of(target)) for target in targets] == [str(form) for form in FORMS]
    exported = run(database, service, trained, tmp_path / "out", targets, ExportOptions(FORMS))
    assert [export.path.name for export in exported] == [
        "my-study-7.onnx", "my-study-7-fp32.onnx", "my-study-7.tflite", "my-study-7-fp32.tflite"
    ]  # fmt: skip
    assert measured == [(t.name, [e.path.name]) for t, e in zip(targets, exported, strict=True)]
    assert (tmp_path / "out" / "evaluate.py").read_bytes() == Path(standalone.__file__).read_bytes()
    for export in exported:
        data = export.path.read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (export.sha256, export.size_bytes)
        assert export.top1_fake_quant == exported[0].top1_network == trained.network("int8").top1(trained.pictures)
        assert abs(export.top1 - export.top1_network) <= 0.02
        (latency,) = export.latencies
        assert latency.measured_ms == MEASURED_MS
        assert (latency.prediction is None) == (export is not exported[0]), "one target has a predictor"
        card = export.card.read_text()
        for said in (export.sha256, latency.target, trained.subnet.encoding, f"{100 * export.top1:.2f} %", "my/study"):
            assert said in card
    with database.session(read_only=True) as session:
        rows = queries.list_exports(session)
    assert [(row.format, row.precision, row.target.name) for row in rows] == [
        (form.format, form.precision, target.name) for form, target in zip(FORMS, targets, strict=True)
    ]
    assert [row.predicted_ms for row in rows] == [0.2, None, None, None]
    for row, export in zip(rows, exported, strict=True):
        assert (row.trial_number, row.top1, row.top1_fake_quant) == (7, export.top1, export.top1_fake_quant)
        assert database.artefacts.read(row.artefact_sha256) == export.path.read_bytes()


def test_metadata_say_the_same_in_both_formats(database, service, trained, tmp_path):
    forms = (FileForm("onnx", "int8"), FileForm("tflite", "int8"))
    targets = export_targets(database, service, "my/study", forms)
    first, second = run(database, service, trained, tmp_path, targets, ExportOptions(forms))
    model = onnx.load_from_string(first.path.read_bytes())
    said = [
        {entry.key: entry.value for entry in model.metadata_props},
        standalone.tflite_metadata(second.path.read_bytes()),
    ]
    assert said[0].keys() == said[1].keys()
    for found, export in zip(said, (first, second), strict=True):
        assert found["milliseek.study"] == "my/study:7"
        assert json.loads(found["milliseek.classes"]) == list(trained.pictures.classes)
        assert json.loads(found["milliseek.accuracy"])["top1"] == export.top1
        (latency,) = json.loads(found["milliseek.latency"]).values()
        assert latency["measured_ms"] == MEASURED_MS
        provenance = json.loads(found["milliseek.provenance"])
        assert (provenance["supernet"], provenance["weight_bits"], provenance["data"]) == ("net", 7, "few digits")
        read = json.loads(found["milliseek.input"])
        assert tuple(read["mean"]) == trained.pictures.mean
        assert read["size"] == [trained.subnet.resolution] * 2
        assert read["layout"] == ("NCHW" if export is first else "NHWC")


def test_targets_asked_for_take_their_files_and_the_rest_goes_to_the_studys_device(database, service):
    service.known += (device_target(database, "local/litert/int8/2t").name,)
    targets = export_targets(database, service, "my/study", FORMS[:3], ["local/litert/int8/2t", TARGET])
    assert [t.name.partition("/")[2] for t in targets] == [
        "litert/int8/2t", "onnxruntime/int8", "onnxruntime/fp32"
    ]  # fmt: skip


def test_targets_that_cannot_be_used_are_named(database, service):
    with pytest.raises(InvalidInput, match="litert/fp32 takes files of the form tflite/fp32; those of this export are"):
        export_targets(database, service, "my/study", FORMS[:1], ["local/litert/fp32"])
    with pytest.raises(NotReady, match="litert/int8 has no predictor") as caught:
        export_targets(database, service, "my/study", FORMS, ["local/litert/int8"])
    assert "milliseek profile" in caught.value.remedy


def test_weights_too_wide_for_a_target_are_trained_again_or_refused(database, service, trained, tmp_path):
    wide = with_weight_bits(trained.supernet, 8)
    targets = [replace(device_target(database, TARGET), weight_bits=7)]
    with pytest.raises(InvalidInput, match="weights of 8 bits") as caught:
        run(database, service, trained, tmp_path, targets, ExportOptions(), wide)
    assert "--fine-tune" in caught.value.remedy
    options = ExportOptions(fine_tune=Budget(steps=2))
    (export,) = run(database, service, trained, tmp_path, targets, options, wide)
    assert export.provenance.weight_bits == 7
    assert export.provenance.fine_tuning.steps == 2
    assert "Fine-tuned alone for 2 steps" in export.card.read_text()
    fp32 = ExportOptions((FileForm("onnx", "fp32"),))
    assert run(database, service, trained, tmp_path, [], fp32, wide)[0].path.exists()


def test_a_full_disk_leaves_no_file_and_no_row(database, service, trained, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def write(path, data):
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    targets = [device_target(database, TARGET)]
    with pytest.raises(StorageError, match="No space left"):
        run(database, service, trained, tmp_path / "out", targets, ExportOptions())
    assert list((tmp_path / "out").iterdir()) == []
    with database.session(read_only=True) as session:
        assert queries.list_exports(session) == []


def test_a_folder_that_cannot_be_written_is_told_before_the_work(database, service, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "trained_network", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        run(database, service, trained, tmp_path / "file", [device_target(database, TARGET)], ExportOptions())
