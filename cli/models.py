"""`predict`, `measure` and `evaluate`: milliseconds of model files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import (
    DEFAULT_TARGET,
    Db,
    Files,
    Json,
    Server,
    Shapes,
    TargetOption,
    latency_client,
    open_database,
    read_model,
)
from .output import milliseconds, note, out, percent, print_json, print_table, progress_bar
from .subnets import predict_subnets
from .tables import (
    Family,
    NetworkField,
    Resolution,
    Unit,
    Zoo,
    evaluate_devices,
    evaluate_parts,
    evaluate_target,
    table_fields,
)

SHOWN_KERNELS = 15


def predict(
    file: Annotated[Path | None, typer.Argument(help="Model file.", show_default=False)] = None,
    target: TargetOption = DEFAULT_TARGET,
    shape: Shapes = None,
    subnets: Annotated[
        Path | None,
        typer.Option("--subnets", help="Instead of FILE: subnets, one encoding a line; - reads stdin."),
    ] = None,
    space: Annotated[str | None, typer.Option("--space", help="The space of the subnets.")] = None,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Predict the latency of a model file on a target, kernel by kernel, or of many subnets of a space."""
    if (file is None) == (subnets is None):
        raise typer.BadParameter("Give either a model FILE, or --subnets FILE with --space.")
    if (subnets is None) != (space is None):
        raise typer.BadParameter("--subnets and --space go together.")
    if subnets is not None and space is not None:
        with open_database(db) as database, latency_client(database, server) as client:
            predict_subnets(client, subnets, space, target, json=json)
        return
    assert file is not None
    name, data = read_model(file, shape)
    with open_database(db) as database, latency_client(database, server) as client:
        prediction = client.predict(client.upload(data, name=Path(name).name), target)
    if json:
        print_json(
            {
                "target": prediction.target,
                "predictor": prediction.predictor,
                "latency_ms": prediction.latency_ms,
                "interval_ms": list(prediction.interval_ms),
                "uncovered": prediction.uncovered,
                "kernels": [asdict(kernel) for kernel in prediction.kernels],
                "notes": list(prediction.notes),
            }
        )
        return
    low, high = map(milliseconds, prediction.interval_ms)
    out.print(f"{milliseconds(prediction.latency_ms)} ms (90 % interval {low} to {high} ms) on {prediction.target}")
    for text in prediction.notes:
        note(text)
    if prediction.uncovered:
        note(f"{percent(prediction.uncovered)} of this comes from kernels that were never measured here.")
    rows = [
        (
            kernel.kind + ("" if kernel.covered else " *"),
            kernel.config,
            str(kernel.count),
            milliseconds(kernel.latency_ms * kernel.count),
            percent(kernel.latency_ms * kernel.count / prediction.latency_ms if prediction.latency_ms else 0.0),
        )
        for kernel in prediction.kernels[:SHOWN_KERNELS]
    ]
    print_table(("kernel", "shapes", "count", "ms", "share"), rows, left=(0, 1))
    if len(prediction.kernels) > SHOWN_KERNELS:
        note(f"and {len(prediction.kernels) - SHOWN_KERNELS} more kinds of kernel; --json lists all")


def measure(
    files: Files, target: TargetOption = DEFAULT_TARGET, shape: Shapes = None, db: Db = None, json: Json = False
) -> None:
    """Measure ONNX or TFLite files on a target."""
    from ..predictors.profiles.evaluation import measure_models
    from ..predictors.targets import device_target

    models = [read_model(file, shape) for file in files]
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        local = device_target(database, target)
        measured = measure_models(
            database, local, models, on_progress=lambda done, total: on_progress("measuring", done, total)
        )
    if json:
        listed = [
            {
                "path": m.path,
                "measured_ms": m.latency_ms,
                "visits": m.visits,
                "disturbed": m.disturbed,
                "notes": list(m.notes),
            }
            for m in measured
        ]
        print_json({"target": local.name, "models": listed})
        return
    rows = [(m.path, milliseconds(m.latency_ms), "disturbed" if m.disturbed else "") for m in measured]
    print_table(("file", "ms", ""), rows, title=local.name, left=(0, 2))
    for text in sorted({text for m in measured for text in m.notes}):
        note(text)


def evaluate(
    files: Annotated[list[Path] | None, typer.Argument(help="ONNX or TFLite files.", show_default=False)] = None,
    target: TargetOption = DEFAULT_TARGET,
    shape: Shapes = None,
    table: Annotated[
        list[Path] | None,
        typer.Option("--table", help="Instead of FILES: a table of latencies; may be repeated.", show_default=False),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option("--latency", metavar="FIELD", help="With --table: column or path.", show_default=False),
    ] = None,
    split: Annotated[
        Literal["family", "random", "device"] | None,
        typer.Option(
            "--split",
            help="With --table: learn from a part of it and predict the rest, instead of asking --target.",
            show_default=False,
        ),
    ] = None,
    unit: Unit = "ms",
    network: NetworkField = None,
    family: Family = "family",
    zoo: Zoo = None,
    resolution: Resolution = None,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Predict files, measure them, and say how right the predictions were; or compare with a table of latencies."""
    if (table is None) == (not files):
        raise typer.BadParameter("Give either model FILES, or --table with --latency.")
    if table is None:
        if latency is not None or split is not None:
            raise typer.BadParameter("--latency and --split go with --table.")
        _evaluate_files(files or [], target, shape, db, server, json=json)
        return
    if latency is None:
        raise typer.BadParameter("--table needs --latency FIELD.")
    fields = table_fields(latency, unit, network, family, zoo=zoo, resolution=resolution)
    if split is None:
        evaluate_target(table, fields, target, db, json=json)
    elif split == "device":
        evaluate_devices(table, fields, json=json)
    else:
        evaluate_parts(table, fields, split, json=json)


def _evaluate_files(
    files: list[Path], target: str, shape: list[str] | None, db: str | None, server: str | None, *, json: bool
) -> None:
    from ..predictors.profiles.evaluation import EvaluatedModel, measure_models, summary
    from ..predictors.targets import device_target

    named = [read_model(file, shape) for file in files]
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        local = device_target(database, target)
        with latency_client(database, server) as client:
            predictions = []
            for i, (path, data) in enumerate(named):
                on_progress("predicting", i, len(named))
                predictions.append(client.predict(client.upload(data, name=Path(path).name), local.name))
        measured = measure_models(
            database, local, named, on_progress=lambda done, total: on_progress("measuring", done, total)
        )
    models = [
        EvaluatedModel(
            m.path, p.latency_ms, p.interval_ms, m.latency_ms, p.uncovered, m.disturbed, tuple({*m.notes, *p.notes})
        )
        for p, m in zip(predictions, measured, strict=True)
    ]
    figures = summary(models)
    if json:
        print_json(
            {
                "target": local.name,
                "models": [
                    {
                        "path": m.path,
                        "predicted_ms": m.predicted_ms,
                        "interval_ms": list(m.interval_ms),
                        "measured_ms": m.measured_ms,
                        "error": m.error,
                        "uncovered": m.uncovered,
                        "disturbed": m.disturbed,
                        "notes": list(m.notes),
                    }
                    for m in models
                ],
                **figures,
            }
        )
        return
    rows = [
        (
            m.path,
            milliseconds(m.predicted_ms),
            f"{milliseconds(m.interval_ms[0])}-{milliseconds(m.interval_ms[1])}",
            milliseconds(m.measured_ms),
            f"{100 * m.error:+.1f} %",
            "disturbed" if m.disturbed else "",
        )
        for m in models
    ]
    print_table(("file", "predicted", "interval", "measured", "error", ""), rows, title=local.name, left=(0, 5))
    out.print(
        f"MAPE {percent(figures['mape'])}, within 5 %: {percent(figures['within_5'])}, "
        f"within 10 %: {percent(figures['within_10'])}, interval coverage {percent(figures['coverage'])}"
    )
    for text in sorted({text for m in models for text in m.notes}):
        note(text)
