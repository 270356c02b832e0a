"""`export`: files that can be deployed, with checked accuracy and measured latency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DEFAULT_TARGET, Data, Db, Json, Server, TargetOption, extras, latency_client, open_database
from .output import milliseconds, percent, print_json, print_table, progress_bar, size

if TYPE_CHECKING:
    from ..nas.workflow import ExportedSubnet


def export(
    study: Annotated[str, typer.Argument(help="STUDY for its best subnets, or STUDY:TRIAL.", show_default=False)],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("milliseek-out"),
    target: TargetOption = DEFAULT_TARGET,
    data: Data = "digits",
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Export subnets of a search as INT8 ONNX files, checked in ONNX Runtime and measured."""
    with extras("search"):
        from ..nas.data import parse_data
        from ..nas.supernets import load_supernet
        from ..nas.workflow import chosen_subnets, export_subnets
    from ..db.studies import get_study, list_supernets
    from ..predictors.targets import device_target

    name, _, number = study.partition(":")
    if number and not number.isdigit():
        raise typer.BadParameter(f"'{number}' is not a trial number.", param_hint="STUDY:TRIAL")
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        local = device_target(database, target)
        chosen = chosen_subnets(database, name, int(number) if number else None)
        with database.session(read_only=True) as session:
            supernet_id = get_study(session, name).supernet_id
            (supernet,) = [row.name for row in list_supernets(session) if row.id == supernet_id]
        pictures = parse_data(data)
        with latency_client(database, server) as client:
            files = export_subnets(
                database,
                client,
                local,
                load_supernet(database, supernet, pictures),
                pictures,
                name,
                chosen,
                folder,
                on_progress,
            )
    if json:
        print_json({"files": [as_json(file) for file in files]})
        return
    rows = [
        (
            str(file.path),
            percent(file.top1),
            milliseconds(file.prediction.latency_ms),
            milliseconds(file.measured_ms),
            size(file.size_bytes),
        )
        for file in files
    ]
    print_table(("file", "top-1", "predicted ms", "measured ms", "size"), rows)


def as_json(file: ExportedSubnet) -> dict[str, Any]:
    """The documented object of one exported file."""
    return {
        "path": str(file.path),
        "format": "onnx",
        "precision": "int8",
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "subnet": file.subnet.encoding,
        "top1": file.top1,
        "top1_fake_quant": file.top1_fake_quant,
        "latency": {
            file.prediction.target: {
                "predicted_ms": file.prediction.latency_ms,
                "interval_ms": list(file.prediction.interval_ms),
                "measured_ms": file.measured_ms,
            }
        },
    }
