"""`spaces`: searching the search space."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .options import (
    DEFAULT_TARGET,
    Data,
    Db,
    Json,
    Seed,
    Server,
    TargetOption,
    extras,
    latency_client,
    milliseconds_list,
    open_database,
)
from .output import milliseconds, note, percent, print_json, print_table, progress_bar

app = typer.Typer(help="Search spaces: which blocks and widths a device likes.", no_args_is_help=True)

SHOWN = 10


@app.command()
def evolve(
    target: TargetOption = DEFAULT_TARGET,
    hyperspace: Annotated[str, typer.Option("--hyperspace", help="tiny32, small32 or onnxw.")] = "small32",
    data: Data = "digits",
    constraints: Annotated[
        str | None,
        typer.Option("--constraints", help="Latency constraints in ms, such as 0.3,0.5.", show_default=False),
    ] = None,
    evaluations: Annotated[int, typer.Option("--evaluations", min=1, help="Spaces to score in all.")] = 1000,
    study: Annotated[
        str | None, typer.Option("--study", help="Name; a study of that name is resumed.", show_default=False)
    ] = None,
    teacher_seconds: Annotated[float, typer.Option(help="Seconds to train the teacher.")] = 60.0,
    cell_seconds: Annotated[float, typer.Option(help="Seconds to distil one stage and block type.")] = 20.0,
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Evolve the space whose INT8 networks are good and fast on a target (SpaceEvo)."""
    with extras("search"):
        from ..nas.budget import Budget
        from ..nas.data import parse_data
        from ..nas.workflow import SpacePlan, design_space
    from ..predictors.targets import local_target
    from ..spaces.hyperspace import hyperspace_named

    started = time.monotonic()
    plan = SpacePlan(
        teacher=Budget(seconds=teacher_seconds),
        cell=(Budget(seconds=0.75 * cell_seconds), Budget(seconds=0.25 * cell_seconds)),
        evaluations=evaluations,
        population=max(20, min(500, evaluations // 5)),
        tournament=max(5, min(125, evaluations // 20)),
        seed=seed,
    )
    limits = milliseconds_list(constraints) if constraints else None
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        local = local_target(database, target)
        pictures = parse_data(data)
        name = study or f"{hyperspace}-{pictures.fingerprint[:8]}-{local.name.replace('/', '-')}-{seed}"
        with latency_client(database, server) as client:
            ranking, used_ms = design_space(
                database,
                client,
                local,
                hyperspace_named(hyperspace),
                pictures,
                name,
                plan,
                constraints_ms=limits,
                on_progress=on_progress,
            )
    best = [
        {
            "space": found.space.encoding,
            "score": found.score,
            "p": list(found.p),
            "quality": [value if value < float("inf") else None for value in found.quality],
        }
        for found in ranking
    ]
    if json:
        print_json(
            {
                "study": name,
                "seconds": time.monotonic() - started,
                "constraints_ms": list(used_ms),
                "evaluations": evaluations,
                "best": best,
            }
        )
        return
    note(f"study {name}, constraints {', '.join(map(milliseconds, used_ms))} ms")
    rows = [
        (found.space.encoding, f"{found.score:.4f}", " ".join(percent(p) for p in found.p)) for found in ranking[:SHOWN]
    ]
    print_table(("space", "score", "share of subnets that meet each constraint"), rows)
