"""`predictors`: what there are, how right they are, whether they still hold, and moving them to other machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Db, Json, extras, open_database
from .output import milliseconds, note, out, percent, print_json, print_table, progress_bar, size

if TYPE_CHECKING:
    from ..predictors.profiles.drift import Drift
    from ..predictors.stored.versions import PredictorVersion

app = typer.Typer(help="Predictors: accuracy, drift, export and import.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="TARGET[@VERSION]", help="Predictor; without @VERSION the newest.", show_default=False)
]
SHOWN_KINDS = 10
SHOWN_NETWORKS = 50


@app.command("list")
def list_(db: Db = None, json: Json = False) -> None:
    """List all predictors."""
    with open_database(db) as database:
        from ..db.predictors import list_predictors

        with database.session(read_only=True) as session:
            found: list[dict[str, Any]] = [
                {
                    "name": f"{row.target.name}@{row.version}",
                    "runtime_version": row.runtime_version,
                    "created_at": row.created_at.isoformat(),
                    "kernels": row.kernels,
                    "networks": row.networks,
                    "held_out": row.held_out,
                }
                for row in list_predictors(session)
            ]
    if json:
        print_json({"predictors": found})
        return
    if not found:
        out.print("There are no predictors; make one: milliseek profile local/onnxruntime/int8")
        return
    rows = []
    for each in found:
        networks = each["held_out"].get("networks") or {}
        shares = [percent(networks[key]) if key in networks else "" for key in ("within_5", "within_10")]
        rows.append((each["name"], each["created_at"][:10], str(each["kernels"]), *shares))
    print_table(("target@version", "made", "kernels", "within 5 %", "10 %"), rows, title="Networks left out in turn")


@app.command()
def show(name: Name, db: Db = None, json: Json = False) -> None:
    """Show what a predictor rests on, and how right it is on kernels and networks it was not fitted on."""
    with open_database(db) as database:
        from ..predictors.stored.versions import predictor_version

        content = _content(predictor_version(database, name))
    if json:
        print_json(content)
    else:
        _print_content(content)


@app.command()
def check(name: Name, db: Db = None, json: Json = False) -> None:
    """Measure a few reference kernels again: does the predictor still hold?"""
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        from ..predictors.profiles.drift import check as run_check
        from ..predictors.stored.versions import predictor_version

        drift = run_check(
            database,
            predictor_version(database, name),
            on_progress=lambda done, total: on_progress("measuring", done, total),
        )
    if json:
        print_json(
            {
                "predictor": drift.predictor,
                "verdict": drift.verdict,
                "factor": drift.factor,
                "spread": drift.spread,
                "within_10": drift.within_10,
                "fitted_version": drift.fitted_version,
                "runtime_version": drift.runtime_version,
                "remedy": drift.remedy,
                "kernels": [
                    {
                        "kind": each.kernel.kind,
                        "config": each.kernel.config,
                        "reference_ms": each.reference_ms,
                        "measured_ms": each.measured_ms,
                        "ratio": each.ratio,
                    }
                    for each in drift.kernels
                ],
            }
        )
    else:
        _print_drift(drift)


@app.command("export")
def export_(
    name: Name,
    path: Annotated[Path, typer.Option("--out", "-o", help="File to create.", show_default=False)],
    db: Db = None,
    json: Json = False,
) -> None:
    """Write a predictor to one file, for another machine."""
    with open_database(db) as database:
        from ..predictors.stored.exchange import export_predictor

        version = export_predictor(database, name, path)
    if json:
        print_json({"predictor": version.name, "path": str(path), "size_bytes": path.stat().st_size})
    else:
        out.print(f"Wrote {version.name} to {path} ({size(path.stat().st_size)}).")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="File that `predictors export` wrote.", show_default=False)],
    target: Annotated[
        str | None,
        typer.Option("--as", help="Use it for this twin of its target: local/onnxruntime/int8.", show_default=False),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Add a predictor from a file, as the newest version of its target."""
    with open_database(db) as database:
        from ..predictors.stored.exchange import import_predictor

        imported = import_predictor(database, path, target)
    if json:
        print_json({"predictor": imported.name, "added": imported.added, "notes": list(imported.notes)})
        return
    out.print(f"Added {imported.name}." if imported.added else f"This is {imported.name} already; nothing was added.")
    for text in imported.notes:
        note(text)


@app.command()
def plot(
    name: Name,
    path: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.", show_default=False)],
    db: Db = None,
    json: Json = False,
) -> None:
    """Draw predicted against measured, errors by kernel kind and the learning curve, as one HTML file."""
    from ..errors import StorageError

    with open_database(db) as database:
        from ..predictors.stored.versions import predictor_version

        version = predictor_version(database, name)
    with extras("server"):
        from ..predictors.stored.plots import plot_html
    try:
        path.write_text(plot_html(version), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.", "Choose another file.") from error
    if json:
        print_json({"predictor": version.name, "path": str(path)})
    else:
        out.print(f"Wrote {path}; open it in a browser.")


def _content(version: PredictorVersion) -> dict[str, Any]:
    predictor = version.predictor
    return {
        "predictor": version.name,
        "runtime_version": predictor.runtime_version,
        "created_at": version.created_at.isoformat(),
        "kernels": version.kernels,
        "networks": version.networks,
        "interval": list(predictor.correction.interval),
        **predictor.report.figures(predictor.correction),
    }


def _print_content(content: dict[str, Any]) -> None:
    out.print(f"[bold]{content['predictor']}[/]")
    made = f"{content['created_at'][:16].replace('T', ' ')} UTC"
    out.print(
        f"{content['kernels']} kernels and {content['networks']} networks, runtime {content['runtime_version']}, {made}"
    )
    of = {"kernels": "never trained on", "networks": "left out in turn"}
    tested = [(what, content[f"held_out_{what}"]) for what in of if content[f"held_out_{what}"][what]]
    if tested:
        figures = ("within_5", "within_10", "mape", "rmspe")
        accuracy = [
            (f"{found[what]} {what} {of[what]}", *(percent(found[figure]) for figure in figures))
            for what, found in tested
        ]
        out.print()
        print_table(("", "within 5 %", "within 10 %", "MAPE", "RMSPE"), accuracy)
    below, above = content["interval"]
    if content["each_network"]:
        out.print(
            f"\n90 % interval: {percent(below)} below to {percent(above)} above, "
            f"holds {percent(content['held_out_networks']['coverage'])} of these networks"
        )
        each = content["each_network"]
        if len(each) > SHOWN_NETWORKS:
            each = sorted(each, key=lambda network: -abs(network["error"]))[:SHOWN_NETWORKS]
        networks = [
            (n["name"], milliseconds(n["measured_ms"]), milliseconds(n["predicted_ms"]), f"{100 * n['error']:+.1f} %")
            for n in each
        ]
        out.print()
        print_table(("network", "measured ms", "predicted ms", "error"), networks)
        if len(each) < len(content["each_network"]):
            note(f"and {len(content['each_network']) - len(each)} networks with smaller errors; --json lists all")
    if content["each_kind"]:
        worst = sorted(content["each_kind"], key=lambda kind: -kind["mape"])[:SHOWN_KINDS]
        kinds = [
            (k["kind"], str(k["kernels"]), percent(k["share"]), percent(k["mape"]), percent(k["within_10"]))
            for k in worst
        ]
        out.print()
        print_table(("worst kernel kinds", "kernels", "share", "MAPE", "within 10 %"), kinds)
        if len(content["each_kind"]) > SHOWN_KINDS:
            note(f"and {len(content['each_kind']) - SHOWN_KINDS} kinds with smaller errors; --json lists all")


def _print_drift(drift: Drift) -> None:
    rows = [
        (
            each.kernel.kind,
            each.kernel.config,
            milliseconds(each.reference_ms),
            "disturbed" if each.measured_ms is None else milliseconds(each.measured_ms),
            "" if each.ratio is None else f"{each.ratio:.2f}",
        )
        for each in drift.kernels
    ]
    print_table(("kernel", "shapes", "then ms", "now ms", "factor"), rows, left=(0, 1))
    out.print(
        f"\n{drift.predictor} [bold]{'holds' if drift.holds else f'does not hold ({drift.verdict})'}[/]: factor "
        f"{drift.factor:.3f} (spread {drift.spread:.3f}), {percent(drift.within_10)} of the kernels within 10 %"
    )
    if drift.runtime_version != drift.fitted_version:
        note(f"It was made with version {drift.fitted_version} of the runtime; this is {drift.runtime_version}.")
    if drift.remedy:
        out.print(drift.remedy)
