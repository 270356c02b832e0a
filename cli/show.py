"""`show`: what the database holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Db, Json, open_database
from .output import milliseconds, note, out, percent, print_json, print_table

if TYPE_CHECKING:
    from ..db.engine import Database

SHOWN = 15


def show(
    study: Annotated[str | None, typer.Argument(help="A study; without it, everything there is.")] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show predictors, supernets, studies and exports, or the trials of one study."""
    with open_database(db) as database:
        content = _study(database, study) if study else _everything(database)
    if json:
        print_json(content)
    elif study:
        _print_study(content)
    else:
        _print_everything(content)


def _everything(database: Database) -> dict[str, Any]:
    from ..db.predictors import list_predictors
    from ..db.studies import list_exports, list_runs, list_studies, list_supernets

    with database.session(read_only=True) as session:
        return {
            "database": database.url.partition("?")[0],
            "predictors": [
                {
                    "name": f"{row.target.name}@{row.version}",
                    "runtime_version": row.runtime_version,
                    "kernels": row.kernels,
                    "networks": row.networks,
                    "held_out": row.held_out,
                }
                for row in list_predictors(session)
            ],
            "supernets": [
                {"name": row.name, "space": row.space.encoding, "phase": row.phase, "step": row.step}
                for row in list_supernets(session)
            ],
            "studies": [
                {"name": row.name, "kind": row.kind, "predictors": row.predictors} for row in list_studies(session)
            ],
            "runs": [
                {"name": row.name, "finished": row.finished, "phases": sorted(row.state)} for row in list_runs(session)
            ],
            "exports": [
                {
                    "path": row.path,
                    "format": row.format,
                    "precision": row.precision,
                    "subnet": f"{row.subnet.space.encoding}:{row.subnet.encoding}",
                    "target": row.target.name,
                    "top1": row.top1,
                    "predicted_ms": row.predicted_ms,
                    "measured_ms": row.measured_ms,
                    "sha256": row.artefact_sha256,
                }
                for row in list_exports(session)
            ],
        }


def _print_everything(content: dict[str, Any]) -> None:
    note(content["database"])
    rows: list[tuple[str, ...]]
    rows = [(p["name"], str(p["kernels"]), _within(p["held_out"])) for p in content["predictors"]]
    _section("Predictors", ("target@version", "kernels", "networks within 5 %"), rows)
    rows = [(s["name"], s["space"], s["phase"], str(s["step"])) for s in content["supernets"]]
    _section("Supernets", ("name", "space", "phase", "step"), rows, left=(0, 1, 2))
    _section("Studies", ("name", "kind"), [(s["name"], s["kind"]) for s in content["studies"]], left=(0, 1))
    rows = [
        (
            e["path"],
            percent(e["top1"]),
            "" if e["predicted_ms"] is None else milliseconds(e["predicted_ms"]),
            milliseconds(e["measured_ms"]),
            e["target"],
        )
        for e in content["exports"]
    ]
    _section("Exports", ("file", "top-1", "predicted ms", "measured ms", "target"), rows, left=(0, 4))


def _within(held_out: dict[str, Any]) -> str:
    networks = held_out.get("networks")
    return percent(networks["within_5"]) if networks else ""


def _section(
    title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], left: tuple[int, ...] = (0,)
) -> None:
    if rows:
        print_table(columns, rows, title=f"\n{title}", left=left)
    else:
        out.print(f"\n{title}: none")


def _study(database: Database, name: str) -> dict[str, Any]:
    from ..db.studies import get_study
    from .options import extras

    with extras("search"):
        from ..nas.studies import finished_trials, load_study
    with database.session(read_only=True) as session:
        row = get_study(session, name)
        content: dict[str, Any] = {
            "name": row.name,
            "kind": row.kind,
            "config": row.config,
            "predictors": row.predictors,
        }
    trials = finished_trials(load_study(database.url, name))
    key = "space" if content["kind"] == "space" else "subnet"
    content["trials"] = [
        {
            "trial": t.number,
            "values": list(t.values),
            key: t.user_attrs.get(key),
            **({"metrics": t.user_attrs["metrics"]} if "metrics" in t.user_attrs else {}),
        }
        for t in trials
    ]
    return content


def _print_study(content: dict[str, Any]) -> None:
    note(f"{content['name']}: {content['kind']} study, predictor {', '.join(content['predictors'])}")
    spaces = content["kind"] == "space"
    objectives = content["config"].get("objectives", ["top1", "latency"])
    best_first = -1 if spaces or objectives[0] == "top1" else 1
    trials = sorted(content["trials"], key=lambda t: best_first * t["values"][0])[:SHOWN]
    rows: list[tuple[str, ...]]
    if spaces:
        rows = [(str(t["trial"]), f"{t['values'][0]:.4f}", t["space"]) for t in trials]
        print_table(("trial", "score", "space"), rows, left=(2,))
    else:
        rows = [(str(t["trial"]), *(f"{value:.4g}" for value in t["values"]), t["subnet"]) for t in trials]
        print_table(("trial", *objectives, "subnet"), rows, left=(1 + len(objectives),))
    if len(content["trials"]) > SHOWN:
        note(f"the best {SHOWN} of {len(content['trials'])} trials; --json lists all")
