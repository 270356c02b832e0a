"""Exports of a search: files of its subnets, written, checked, measured on targets and recorded in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...client import Client
from ...db import spaces as space_queries
from ...db import studies as queries
from ...db.artefacts import save_artefact
from ...db.engine import Database
from ...devices.facts import local_facts, weight_bits
from ...errors import InvalidInput, NotFound
from ...predictors.profiles.evaluation import measure_models
from ...predictors.targets import DeviceTarget
from ...spaces.definition import definition
from ...spaces.onnx_network import Precision
from ...spaces.space import Subnet
from ..pictures.data import Pictures
from ..training.budget import Budget
from ..training.evaluation import calibration_batches
from ..training.supernet import Supernet
from . import standalone
from .export import FileForm, TrainedNetwork, checked_top1, trained_network
from .export_files import check_folder, picture_files, write_files
from .export_targets import predictable_targets
from .exported_subnet import ExportedSubnet, FileLatency, Provenance, metadata
from .fine_tuning import fine_tune
from .model_card import SCRIPT, model_card

OnProgress = Callable[[str, float, float], None]
"""(what is being done, done, total)."""

INT8_ONNX = FileForm("onnx", "int8")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported: files of these forms, of the subnet as it is or trained alone for `fine_tune` before.

    `test_pictures`: the pictures on which accuracy was measured too, as PNG files and a list.
    """

    forms: Sequence[FileForm] = (INT8_ONNX,)
    fine_tune: Budget | None = None
    test_pictures: bool = False
    seed: int = 0


def export_subnets(
    database: Database,
    client: Client,
    targets: Sequence[DeviceTarget],
    supernet: Supernet,
    pictures: Pictures,
    study: str,
    chosen: Mapping[int, Subnet],
    folder: Path,
    options: ExportOptions = ExportOptions(),
    on_progress: OnProgress = lambda *_: None,
) -> list[ExportedSubnet]:
    """Files of the chosen subnets (by trial): checked, predicted and measured on the targets that take them, written.

    Beside every file comes its model card, in the folder `evaluate.py` (`standalone`); the database gets a row for
    every file and target. Raises StorageError, before anything is done, for a folder that cannot be written, and leaves
    no file in half when the disk is full; InvalidInput where a target's integer arithmetic is narrower than the
    supernet's weights; MeasurementError for a file that computes something else than was trained.
    """
    if not chosen:
        raise InvalidInput(
            f"The study '{study}' has found no subnet to export.", "Search longer, or with other budgets."
        )
    check_folder(folder)
    bits = _weight_bits(supernet, targets, options)
    name = supernet_name(database, study)
    made: list[tuple[ExportedSubnet, TrainedNetwork]] = []
    for trial, subnet in chosen.items():
        provenance = Provenance(study, trial, name, bits, pictures.fingerprint)
        made += _checked(supernet, pictures, subnet, folder, options, provenance, on_progress)
    latencies = _latencies(database, client, targets, made, pictures, on_progress)
    files: dict[Path, bytes] = {folder / SCRIPT: Path(standalone.__file__).read_bytes()}
    exported = []
    for draft, trained in made:
        timed = replace(draft, latencies=latencies[draft.path])
        data = trained.file(timed.form.format, metadata(timed, pictures))
        export = replace(timed, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        files |= {export.path: data, export.card: model_card(export, pictures).encode()}
        exported.append(export)
    if options.test_pictures:
        files |= picture_files(pictures, folder)
    write_files(files)
    rows = {target.name: target.row_id for target in targets}
    for export in exported:
        _record(database, export, files[export.path], rows)
    return exported


def _weight_bits(supernet: Supernet, targets: Sequence[DeviceTarget], options: ExportOptions) -> int:
    """Bits of the weights in int8 files; raises InvalidInput where they are more than a target computes exactly."""
    trained = supernet.quantisation.weight_bits
    narrow = {t.name: t.weight_bits for t in targets if FileForm.of(t) == INT8_ONNX and t.weight_bits < trained}
    if options.fine_tune and any(form.precision == "int8" for form in options.forms):
        return min((t.weight_bits for t in targets if t.precision == "int8"), default=trained)
    if narrow:
        raise InvalidInput(
            f"The supernet has weights of {trained} bits, with which the integers of {min(narrow)} overflow.",
            "Export with --fine-tune 10m, which trains the subnet for 7 bits, or train a supernet for that target.",
        )
    return trained


def supernet_name(database: Database, study: str) -> str:
    """Name of the supernet whose subnets a study evaluated; raises NotFound."""
    with database.session(read_only=True) as session:
        supernet_id = queries.get_study(session, study).supernet_id
        for row in queries.list_supernets(session):
            if row.id == supernet_id:
                return row.name
    raise NotFound(f"The study '{study}' has no supernet.", "Name a study of subnets: milliseek show")


def _checked(
    supernet: Supernet,
    pictures: Pictures,
    subnet: Subnet,
    folder: Path,
    options: ExportOptions,
    provenance: Provenance,
    on_progress: OnProgress,
) -> list[tuple[ExportedSubnet, TrainedNetwork]]:
    """The files of one subnet, as yet without latencies, and what they are made of."""
    name = f"{provenance.study}:{provenance.trial}"
    calibration = calibration_batches(pictures)
    if options.fine_tune:
        supernet, tuning = fine_tune(
            supernet,
            subnet,
            pictures,
            options.fine_tune,
            calibration,
            weight_bits=provenance.weight_bits,
            seed=options.seed,
            on_step=lambda done: on_progress(f"fine-tuning {name}", done, 1),
        )
        provenance = replace(provenance, fine_tuning=tuning)
    precisions: set[Precision] = {form.precision for form in options.forms}
    if supernet.quantised:
        precisions.add("int8")
    trained = {p: trained_network(supernet, subnet, p, pictures, calibration) for p in precisions}
    exact = provenance.weight_bits > weight_bits(local_facts())
    found = []
    for i, form in enumerate(options.forms):
        on_progress(f"checking {name}", i, len(options.forms))
        network = trained[form.precision]
        suffix = "" if form.precision == "int8" else f"-{form.precision}"
        export = ExportedSubnet(
            subnet=subnet,
            form=form,
            provenance=provenance,
            path=folder / f"{provenance.study.replace('/', '-')}-{provenance.trial}{suffix}.{form.format}",
            top1=checked_top1(network, form.format, pictures, exact=exact and form == INT8_ONNX),
            top1_network=network.top1(pictures),
            top1_fake_quant=trained["int8"].top1(pictures) if "int8" in trained else None,
        )
        found.append((export, network))
    return found


def _latencies(
    database: Database,
    client: Client,
    targets: Sequence[DeviceTarget],
    made: Sequence[tuple[ExportedSubnet, TrainedNetwork]],
    pictures: Pictures,
    on_progress: OnProgress,
) -> dict[Path, tuple[FileLatency, ...]]:
    """Every file on every target that takes it, measured in rounds; predicted where the target has a predictor."""
    predictable = predictable_targets(client)
    found: dict[Path, tuple[FileLatency, ...]] = {export.path: () for export, _ in made}
    for target in targets:
        files = [
            (export.path, trained.file(export.form.format, metadata(export, pictures)))
            for export, trained in made
            if export.form == FileForm.of(target)
        ]
        predictions = [client.predict(data, target.name) if target.name in predictable else None for _, data in files]
        measured = measure_models(
            database,
            target,
            [(path.name, data) for path, data in files],
            on_progress=lambda done, total: on_progress("measuring the files", done, total),
        )
        for (path, _), prediction, measurement in zip(files, predictions, measured, strict=True):
            latency = FileLatency(target.name, prediction, measurement.latency_ms, measurement.disturbed)
            found[path] += (latency,)
    return found


def _record(database: Database, export: ExportedSubnet, data: bytes, target_rows: Mapping[str, int]) -> None:
    """A row for every target on which the file was measured."""
    space = export.subnet.space
    with database.session() as session:
        study_id = queries.get_study(session, export.provenance.study).id
        hyperspace = space_queries.get_or_create_hyperspace(
            session, space.hyperspace.name, definition(space.hyperspace)
        )
        space_row = space_queries.get_or_create_space(session, space.encoding, hyperspace.id)
        network = export.subnet.network(space.hyperspace.nominal_classes)
        subnet = space_queries.get_or_create_subnet(
            session, space_row.id, export.subnet.genome, macs=network.macs, params=network.params
        )
        sha256 = save_artefact(session, database.artefacts, data, "export")
        for latency in export.latencies:
            prediction = latency.prediction
            queries.add_export(
                session,
                study_id=study_id,
                trial_number=export.trial,
                subnet_id=subnet.id,
                target_id=target_rows[latency.target],
                format=export.form.format,
                precision=export.form.precision,
                artefact_sha256=sha256,
                path=str(export.path.absolute()),
                size_bytes=export.size_bytes,
                top1=export.top1,
                top1_fake_quant=export.top1_fake_quant,
                predicted_ms=prediction.latency_ms if prediction else None,
                interval_ms=prediction.interval_ms if prediction else None,
                measured_ms=latency.measured_ms,
                info={
                    "predictor": prediction.predictor if prediction else None,
                    "top1_network": export.top1_network,
                    "disturbed": latency.disturbed,
                    "provenance": asdict(export.provenance),
                },
            )
