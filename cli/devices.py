"""`devices`: the machines that milliseek knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from . import phones
from .options import Db, Json, Seed, open_database
from .output import milliseconds, note, out, percent, print_json, print_table, progress_bar
from .tables import Family, Latency, NetworkField, Resolution, Runs, Spread, Unit, Zoo, table_fields

app = typer.Typer(help="The devices that milliseek knows.", no_args_is_help=True)
app.command("add")(phones.add)
app.command("operators")(phones.operators)

Name = Annotated[str, typer.Argument(help="Name of the device.", show_default=False)]


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
                    "model": device.model,
                    "state": device.state,
                    "connected": device.connected,
                    "last_seen_at": device.last_seen_at.isoformat() if device.last_seen_at else None,
                    "facts": device.facts,
                    "targets": targets,
                }
            )
    if json:
        print_json({"devices": found})
        return
    for item in found:
        out.print(f"[bold]{item['name']}[/]" + (" (this machine: local)" if item["local"] else ""))
        for line in _lines(item):
            out.print(f"  {escape(line)}")
        rows = [(t["name"], t["predictor"].rpartition("@")[2] if t["predictor"] else "none") for t in item["targets"]]
        if rows:
            print_table(("target", "predictor version"), rows)


def _lines(item: dict[str, Any]) -> Iterator[str]:
    """What to tell people about a device."""
    facts = item["facts"]
    if "tables" in facts:
        for table in facts["tables"]:
            files = ", ".join(file["name"] for file in table["files"])
            yield f"imported {table['imported_at'][:10]}: {table['networks']} networks of {files}"
        return
    if not item["local"]:
        about = [item["kind"], f"model {item['model']}" if item["model"] else ""]
        if item["kind"] == "agent":
            about.append(item["state"])
            seen = item["last_seen_at"]
            last = f"last seen {seen[:19].replace('T', ' ')} UTC" if seen else "never connected"
            about.append("connected" if item["connected"] else last)
        yield ", ".join(filter(None, about))
    yield f"{facts['cpu_model']}, {facts['cores']} cores, {facts['memory_bytes'] / 2**30:.0f} GiB"
    yield " ".join(facts["isa"])
    yield ", ".join(f"{name} {version}" for name, version in facts["runtimes"].items())


@app.command()
def drain(name: Name, db: Db = None, json: Json = False) -> None:
    """Let a device finish what it holds, and give it nothing more; `resume` ends that."""
    _set_state(name, "draining", db, json=json)


@app.command()
def resume(name: Name, db: Db = None, json: Json = False) -> None:
    """Let a drained device take jobs again."""
    _set_state(name, "active", db, json=json)


@app.command()
def remove(name: Name, db: Db = None, json: Json = False) -> None:
    """Take a device away: its jobs go to others of its model or fail, its tokens are revoked. Measurements stay."""
    from ..db.devices import remove_device

    with open_database(db) as database, database.session() as session:
        remove_device(session, name)
    if json:
        print_json({"name": name, "state": "removed"})
    else:
        out.print(f"Removed {name}.")


def _set_state(name: str, state: Literal["active", "draining"], db: str | None, *, json: bool) -> None:
    from ..db.devices import set_device_state

    with open_database(db) as database, database.session() as session:
        set_device_state(session, name, state)
    if json:
        print_json({"name": name, "state": state})
    else:
        out.print(f"{name} is {state}.")


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="What to call the device.", show_default=False)],
    files: Annotated[
        list[Path], typer.Argument(help="Tables: JSON lines or CSV with a header, .gz or not.", show_default=False)
    ],
    latency: Latency,
    unit: Unit = "ms",
    precision: Annotated[Literal["fp32", "int8"], typer.Option("--precision", help="Of the networks there.")] = "fp32",
    leave_out: Annotated[
        str | None, typer.Option("--leave-out", metavar="family=X", help="Learn nothing from this family.")
    ] = None,
    aggregate: Annotated[
        Literal["min", "median", "mean"] | None,
        typer.Option("--aggregate", help="What to make of networks with several latencies.", show_default=False),
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(
            "--from-devices", metavar="A,B,C", help="Imported devices that tell what a few measurements do not."
        ),
    ] = None,
    fusion: Annotated[
        Literal["operators", "linked", "inplace", "learned"] | None,
        typer.Option(
            "--fusion",
            help="How its runtime fuses: as TFLite on CPUs, as its GPU delegate, as OpenVINO on VPUs, or learned. "
            "Default: what the names of device and column tell.",
            show_default=False,
        ),
    ] = None,
    kernels: Annotated[
        Path | None,
        typer.Option(
            "--kernels", help="Table of single kernels timed there as well, of the same unit.", show_default=False
        ),
    ] = None,
    kernel_latency: Annotated[
        str | None,
        typer.Option(
            "--kernel-latency", metavar="FIELD", help="Its column. Default: that of --latency.", show_default=False
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TARGET",
            help="A profiled LiteRT target whose kernels are a first guess.",
            show_default=False,
        ),
    ] = None,
    network: NetworkField = None,
    family: Family = "family",
    spread: Spread = None,
    runs: Runs = None,
    zoo: Zoo = None,
    resolution: Resolution = None,
    seed: Seed = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Make a predictor of a device from a table of networks and their latencies there.

    The target is NAME/imported/PRECISION. A network is a list of operators (`graph`), timm:NAME, pytorchcv:NAME, a cell
    of NAS-Bench-201, SPACE:SUBNET, or the path of an ONNX or TFLite file.
    """
    from ..predictors.tables.imported import import_table
    from ..predictors.tables.kernel_rows import kernels_of_table, kernels_of_target

    if sum(option is not None for option in (kernels, base, known)) > 1:
        raise typer.BadParameter("Give one of --kernels, --from and --from-devices.")
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        profiled, provenance = None, None
        if kernels is not None:
            profiled, provenance = kernels_of_table(kernels, kernel_latency or latency, unit)
        elif base is not None:
            profiled, provenance = kernels_of_target(database, base)
        made = import_table(
            database,
            name,
            files,
            table_fields(latency, unit, network, family, spread, runs, zoo, resolution),
            precision=precision,
            leave_out=_left_out(leave_out),
            aggregate=aggregate,
            fusion=fusion,
            known=_names(known),
            profiled=profiled,
            provenance=provenance,
            seed=seed,
            on_progress=on_progress,
        )
    if json:
        print_json(
            {
                "target": made.target,
                "predictor": made.predictor,
                "networks": made.networks,
                "held_out": made.held_out,
            }
        )
        return
    out.print(f"{made.predictor}: learned from {made.networks} networks")
    if "within_10" in made.held_out:
        out.print(
            f"left out in turn: {percent(made.held_out['within_5'])} within 5 %, "
            f"{percent(made.held_out['within_10'])} within 10 %, RMSPE {percent(made.held_out['rmspe'])}"
        )


@app.command()
def choose(
    known: Annotated[
        str, typer.Option("--from-devices", metavar="A,B,C", help="Imported devices.", show_default=False)
    ],
    count: Annotated[int, typer.Option("--count", min=3, help="How many networks.")] = 10,
    precision: Annotated[Literal["fp32", "int8"], typer.Option("--precision", help="Of their tables.")] = "fp32",
    seed: Seed = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """List the networks that are worth measuring on a new device, the most telling first."""
    from ..predictors.tables.from_devices import known_devices, telling_networks

    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        rows = telling_networks(known_devices(database, _names(known), precision, (), on_progress), count, seed)
    if json:
        print_json({"networks": [{"name": row.name, "network": row.network, "family": row.family} for row in rows]})
        return
    print_table(("network", "family", "ms there"), [(r.name, r.family, milliseconds(r.latency_ms)) for r in rows])
    note("--json gives the networks themselves; add a latency to each and import them with --from-devices")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _left_out(text: str | None) -> str | None:
    if text is None:
        return None
    field, _, value = text.partition("=")
    if field != "family" or not value:
        raise typer.BadParameter(f"'{text}' is not family=X.", param_hint="--leave-out")
    return value
