"""`export`: files that can be deployed, with checked accuracy and measured latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from .options import Data, Db, Json, Seed, Server, extras, latency_client, open_database, seconds
from .output import milliseconds, note, percent, print_json, print_table, progress_bar, size

if TYPE_CHECKING:
    from ..nas.exports.exported_subnet import ExportedSubnet

FORMATS: tuple[Literal["onnx", "tflite"], ...] = ("onnx", "tflite")
PRECISIONS: tuple[Literal["int8", "fp32"], ...] = ("int8", "fp32")
Name = TypeVar("Name", bound=str)


def export(
    study: Annotated[str, typer.Argument(help="STUDY for its best subnets, or STUDY:TRIAL.", show_default=False)],
    formats: Annotated[str, typer.Option("--format", help="onnx, tflite or both: onnx,tflite.")] = "onnx",
    precisions: Annotated[str, typer.Option("--precision", help="int8, fp32 or both: int8,fp32.")] = "int8",
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="Target that predicts and measures the files it takes; may be repeated. [default: the study's device]",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("milliseek-out"),
    fine_tune: Annotated[
        str | None,
        typer.Option("--fine-tune", help="Train each subnet alone before, for 10m, say.", show_default=False),
    ] = None,
    test_pictures: Annotated[
        bool, typer.Option("--test-pictures", help="Write the test pictures too, for evaluate.py.")
    ] = False,
    data: Data = "digits",
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Export subnets of a search as files: checked in their runtimes, predicted and measured.

    Beside every file lies its model card, and evaluate.py, which measures its accuracy on pictures.
    """
    name, _, number = study.partition(":")
    if number and not number.isdigit():
        raise typer.BadParameter(f"'{number}' is not a trial number.", param_hint="STUDY:TRIAL")
    kinds = [
        (f, p) for f in _several("--format", formats, FORMATS) for p in _several("--precision", precisions, PRECISIONS)
    ]
    tuning_s = seconds(fine_tune) if fine_tune else None
    with extras("search"):
        from ..nas.exports.export import FileForm
        from ..nas.exports.export_targets import export_targets
        from ..nas.exports.exporting import ExportOptions, export_subnets, supernet_name
        from ..nas.exports.model_card import SCRIPT
        from ..nas.pictures.data import parse_data
        from ..nas.search.subnet_studies import chosen_subnets
        from ..nas.training.budget import Budget
        from ..nas.training.supernets import load_supernet, picture_size

    budget = Budget(seconds=tuning_s) if tuning_s else None
    options = ExportOptions([FileForm(*kind) for kind in kinds], budget, test_pictures, seed)
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        chosen = chosen_subnets(database, name, int(number) if number else None)
        supernet = supernet_name(database, name)
        pictures = parse_data(data, picture_size(database, supernet))
        with latency_client(database, server) as client:
            files = export_subnets(
                database,
                client,
                export_targets(database, client, name, options.forms, targets or ()),
                load_supernet(database, supernet, pictures),
                pictures,
                name,
                {each.trial: each.subnet for each in chosen},
                folder,
                options,
                on_progress,
            )
    if json:
        print_json({"files": [as_json(file) for file in files], "script": str(folder / SCRIPT)})
        return
    rows = [
        (file.path.name, percent(file.top1), size(file.size_bytes), latency.target, *_times(file, i))
        for file in files
        for i, latency in enumerate(file.latencies)
    ]
    print_table(("file", "top-1", "size", "target", "predicted ms", "measured ms"), rows, left=(0, 3))
    note(f"files, model cards and {SCRIPT} are in {folder.absolute()}")


def _several(option: str, text: str, known: Sequence[Name]) -> list[Name]:
    """The names among the `known` ones that an option lists; raises a usage error."""
    if unknown := set(text.split(",")) - set(known):
        raise typer.BadParameter(f"'{min(unknown)}' is not one of {', '.join(known)}.", param_hint=option)
    return [name for name in known if name in text.split(",")]


def _times(file: ExportedSubnet, index: int) -> tuple[str, str]:
    latency = file.latencies[index]
    predicted = milliseconds(latency.prediction.latency_ms) if latency.prediction else "no predictor"
    return predicted, milliseconds(latency.measured_ms) + ("?" if latency.disturbed else "")


def as_json(file: ExportedSubnet) -> dict[str, Any]:
    """The documented object of one exported file."""
    tuning = file.provenance.fine_tuning
    return {
        "path": str(file.path),
        "card": str(file.card),
        "format": file.form.format,
        "precision": file.form.precision,
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "subnet": file.subnet.encoding,
        "trial": file.trial,
        "top1": file.top1,
        "top1_network": file.top1_network,
        "top1_fake_quant": file.top1_fake_quant,
        "fine_tuning": {"steps": tuning.steps, "top1_before": tuning.top1_before, "top1_after": tuning.top1_after}
        if tuning
        else None,
        "latency": {
            each.target: {
                "predicted_ms": each.prediction.latency_ms if each.prediction else None,
                "interval_ms": list(each.prediction.interval_ms) if each.prediction else None,
                "measured_ms": each.measured_ms,
                "disturbed": each.disturbed,
            }
            for each in file.latencies
        },
    }
