"""Tables of latencies: the options that name what is where in them, and their evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .options import open_database
from .output import err, out, percent, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ..predictors.tables.latency_rows import Fields

Latency = Annotated[
    str,
    typer.Option("--latency", metavar="FIELD", help="Column, or path in JSON: latency_ms.pixel4.", show_default=False),
]
Unit = Annotated[Literal["ms", "us"], typer.Option("--unit", help="Of the latencies.")]
NetworkField = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="FIELD",
        help="Column of the network. Default: graph, network, model, name, arch, file or path.",
        show_default=False,
    ),
]
Family = Annotated[
    str, typer.Option("--family", metavar="FIELD", help="Column of the family; without it the name's first letters.")
]
Spread = Annotated[
    str | None, typer.Option("--spread", metavar="FIELD", help="Column of the spread.", show_default=False)
]
Runs = Annotated[
    str | None, typer.Option("--runs", metavar="FIELD", help="Column of the number of runs.", show_default=False)
]
Zoo = Annotated[
    Literal["timm", "pytorchcv"] | None,
    typer.Option("--zoo", help="Where plain names of networks belong.", show_default=False),
]
Resolution = Annotated[
    int | None,
    typer.Option("--resolution", min=1, help="Of their pictures. Default: the zoo's own.", show_default=False),
]
Split = Literal["family", "random"]
COLUMNS = ("n", "within_5", "within_10", "within_20", "rmspe", "spearman", "kendall", "coverage")


def table_fields(
    latency: str,
    unit: Literal["ms", "us"] = "ms",
    network: str | None = None,
    family: str = "family",
    spread: str | None = None,
    runs: str | None = None,
    zoo: str | None = None,
    resolution: int | None = None,
) -> Fields:
    """The options as the reader of tables takes them."""
    from ..predictors.tables.latency_rows import Fields

    return Fields(latency, unit, network, family, spread, runs, zoo, resolution)


def evaluate_target(paths: Sequence[Path], fields: Fields, target: str, db: str | None, *, json: bool) -> None:
    """Predict the networks of tables and compare."""
    from ..predictors.stored.versions import predictor_version
    from ..predictors.tables.evaluation import by_family, figures, predict_table

    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        version = predictor_version(database, target)
        rows = predict_table(version.predictor, paths, fields, on_progress)
    if json:
        models = [
            {
                "path": row.name,
                "family": row.family,
                "predicted_ms": row.predicted_ms,
                "interval_ms": list(row.interval_ms),
                "measured_ms": row.measured_ms,
                "error": row.error,
                "uncovered": row.uncovered,
                "disturbed": False,
                "notes": [],
            }
            for row in rows
        ]
        print_json({"target": version.predictor.target, "models": models, **figures(rows), "families": by_family(rows)})
        return
    _print_figures(f"{version.name}, {len(rows)} networks", {**by_family(rows), "all": figures(rows)})


def evaluate_parts(paths: Sequence[Path], fields: Fields, split: Split, *, json: bool) -> None:
    """Learn from a part of tables, predict the rest, beside baselines."""
    from ..predictors.tables.evaluation import by_family, evaluate_split, figures
    from ..predictors.tables.imported import read_networks

    with progress_bar(quiet=json) as on_progress:
        networks = read_networks(paths, fields, on_progress=on_progress)
        rows, means = evaluate_split(networks, split, on_progress=on_progress)
    if json:
        print_json(
            {
                "split": split,
                "latency": fields.latency,
                "networks": len(rows),
                **figures(rows),
                "families": by_family(rows),
                "parts": means,
            }
        )
        return
    _print_figures(f"{fields.latency}: each {split} left out in turn", {**by_family(rows), "all": figures(rows)})
    names = {"mean": "mean of the parts", "linear": "linear model", "macs": "MACs alone"}
    out.print()
    _print_figures("Beside baselines", {names[name]: found for name, found in means.items()})


def evaluate_devices(paths: Sequence[Path], fields: Fields, *, json: bool) -> None:
    """Every device of tables in turn as the new one, of which ten networks are measured."""
    from ..predictors.tables.device_evaluation import MEASURED
    from ..predictors.tables.device_evaluation import evaluate_devices as evaluate

    with progress_bar(quiet=json) as on_progress:
        devices = evaluate(paths, fields, on_progress=on_progress)
    if json:
        print_json({"split": "device", "latency": fields.latency, "measured": MEASURED, "devices": devices})
        return
    for method, title in (
        ("ours", f"{MEASURED} networks measured, the other devices known"),
        ("best_single", "Best single known device, scaled"),
    ):
        _print_figures(title, {name: found[method] for name, found in devices.items()})


def _print_figures(title: str, groups: dict[str, dict[str, Any]]) -> None:
    shown = [column for column in COLUMNS if any(column in found for found in groups.values())]
    rows = [(name, *(_cell(column, found.get(column)) for column in shown)) for name, found in groups.items()]
    heads = [column.replace("within_", "in ").replace("spearman", "rho").replace("kendall", "tau") for column in shown]
    print_table(("", *(head + (" %" if head.startswith("in ") else "") for head in heads)), rows, title=title)
    err.print("[dim]in N %: share of networks predicted within; coverage: of the 90 % intervals[/]")


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column == "n":
        return str(int(value))
    return f"{value:.3f}" if column in ("spearman", "kendall") else percent(value)
