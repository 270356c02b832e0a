"""`devices add` and `devices operators`: phones behind adb."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .options import Db, Json, open_database
from .output import milliseconds, note, out, percent, print_json, print_table

if TYPE_CHECKING:
    from ..devices.phone.facts import PhoneFacts

_CLOCKS = "The clocks of this phone cannot be pinned, as it is not rooted: visits are gated by probes alone."


def add(
    name: Annotated[str, typer.Argument(help="What to call the phone in targets.", show_default=False)],
    serial: Annotated[
        str, typer.Option("--adb", metavar="SERIAL", help="Its serial number, as `adb devices` lists it.")
    ],
    benchmark_model: Annotated[
        Path, typer.Option("--benchmark-model", help="LiteRT's benchmark_model, built for the phone.")
    ],
    adb_server: Annotated[
        str | None,
        typer.Option("--adb-server", help="host:port of the adb server. Default: adb's own.", show_default=False),
    ] = None,
    folder: Annotated[str, typer.Option("--folder", help="Where to work on the phone.")] = "/data/local/tmp/milliseek",
    model: Annotated[
        str | None,
        typer.Option("--model", help="A name for all devices of this kind, for targets too.", show_default=False),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Add a phone: targets such as NAME/litert/int8/4t@4-7 and NAME/litert+gpu/fp32 are measured on it from then on.

    The phone is asked for its facts and tries each delegate on a tiny model. Nothing stays on it.
    """
    from ..db import devices as queries
    from ..devices.facts import local_facts
    from ..devices.phone.device import AdbDevice
    from ..devices.target import LOCAL, Target
    from ..errors import InvalidInput

    program = benchmark_model.expanduser().resolve()
    connection: dict[str, Any] = {"serial": serial, "benchmark_model": str(program), "folder": folder}
    if adb_server is not None:
        connection["adb_server"] = adb_server
    with open_database(db) as database:
        with database.session(read_only=True) as session:
            known = queries.find_device(session, name)
            if name in (LOCAL, local_facts().id) or (known is not None and known.kind != "adb"):
                raise InvalidInput(f"'{name}' is another device.", "Choose another name; `milliseek devices list`.")
        with AdbDevice(Target(name, "litert", "fp32"), **connection) as phone:
            facts, delegates, pinned = phone.facts(), phone.delegates(), phone.clocks_pinned
            conditions = phone.conditions()
        connection["benchmark_sha256"] = hashlib.sha256(program.read_bytes()).hexdigest()
        stored = {key: value for key, value in asdict(facts).items() if key not in ("id", "runtimes")}
        stored |= {
            "runtimes": dict(facts.runtimes),
            "delegates": delegates,
            "clocks_pinned": pinned,
            "adb": connection,
        }
        with database.session() as session:
            queries.upsert_device(session, name, "adb", stored, model=model)
    if not pinned:
        note(_CLOCKS)
    if json:
        print_json({"name": name, "model": model, "facts": stored, **asdict(conditions)})
        return
    about = f"{facts.manufacturer} {facts.product}, {facts.os}, {facts.cpu_model}, {facts.cores} cores"
    out.print(escape(f"{name}: {about}"))
    out.print(f"delegates: {', '.join(delegates) or 'none'}; try {', '.join(_targets(name, facts, delegates))}")


def operators(
    target: Annotated[
        str, typer.Argument(help="Target on a phone, such as pixel6/litert+gpu/fp32.", show_default=False)
    ],
    file: Annotated[Path, typer.Argument(help="TFLite file.", show_default=False)],
    db: Db = None,
    json: Json = False,
) -> None:
    """Tell what each operator of a TFLite file takes on a phone, as its runtime's own profiler sees it.

    Profiling costs time itself: for the latency of the whole, use `milliseek measure`.
    """
    from ..devices.phone.device import AdbDevice
    from ..errors import InvalidInput
    from ..predictors.targets import device_target, open_device
    from .options import read_model

    _, data = read_model(file, None)
    with open_database(db) as database, open_device(database, device_target(database, target)) as device:
        if not isinstance(device, AdbDevice):
            raise InvalidInput(f"'{target}' is not on a phone behind adb.", "Add one with `milliseek devices add`.")
        rows = device.operators(data)
    if json:
        print_json({"target": target, "operators": [asdict(row) for row in rows]})
        return
    cells = [
        (row.node_type, milliseconds(row.avg_ms), percent(row.share), str(row.times_called), row.name) for row in rows
    ]
    print_table(("operator", "ms", "share", "calls", "result"), cells, left=(0, 4))


def _targets(name: str, facts: PhoneFacts, delegates: tuple[str, ...]) -> list[str]:
    """Targets worth a try: the cores as fast as the fastest, and the GPU."""
    from ..devices.target import Target

    best = max(facts.core_max_mhz, default=0)
    fast = tuple(core for core, mhz in enumerate(facts.core_max_mhz) if mhz == best)
    found = [Target(name, "litert", "int8", threads=len(fast) or 1, cores=fast if best else None)]
    if "gpu" in delegates:
        found.append(Target(name, "litert", "fp32", delegate="gpu"))
    return [str(target) for target in found]
