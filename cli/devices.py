"""`devices`: the machines that milliseek knows."""

from __future__ import annotations

from typing import Any

import typer

from .options import Db, Json, open_database
from .output import out, print_json, print_table

app = typer.Typer(help="The devices that milliseek knows.", no_args_is_help=True)


@app.command("list")
def list_(db: Db = None, json: Json = False) -> None:
    """List devices and their targets; this machine registers itself."""
    from ..db import devices as queries
    from ..db.predictors import latest_predictor
    from ..devices.facts import local_facts
    from ..predictors.targets import register_local

    with open_database(db) as database, database.session() as session:
        register_local(session)
        local = local_facts().id
        found: list[dict[str, Any]] = []
        for device in queries.list_devices(session):
            targets: list[dict[str, Any]] = []
            for target in queries.list_targets(session, device.id):
                predictor = latest_predictor(session, target.name)
                targets.append(
                    {
                        "name": target.name,
                        "predictor": f"{target.name}@{predictor.version}" if predictor else None,
                        "held_out": predictor.held_out if predictor else None,
                    }
                )
            found.append(
                {
                    "name": device.name,
                    "kind": device.kind,
                    "local": device.name == local,
                    "facts": device.facts,
                    "targets": targets,
                }
            )
    if json:
        print_json({"devices": found})
        return
    for item in found:
        facts = item["facts"]
        out.print(f"[bold]{item['name']}[/]" + (" (this machine: local)" if item["local"] else ""))
        out.print(f"  {facts['cpu_model']}, {facts['cores']} cores, {facts['memory_bytes'] / 2**30:.0f} GiB")
        out.print(f"  {' '.join(facts['isa'])}")
        out.print("  " + ", ".join(f"{name} {version}" for name, version in facts["runtimes"].items()))
        rows = [(t["name"], t["predictor"].rpartition("@")[2] if t["predictor"] else "none") for t in item["targets"]]
        if rows:
            print_table(("target", "predictor version"), rows)
