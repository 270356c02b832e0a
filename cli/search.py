"""`search`: the best networks of a supernet for latency budgets."""

from __future__ import annotations

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


def search(
    supernet: Annotated[str, typer.Argument(help="Name of a trained supernet.", show_default=False)],
    budgets: Annotated[
        str | None, typer.Option("--budgets", help="Latency budgets in ms, such as 0.3,0.5.", show_default=False)
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    data: Data = "digits",
    evaluations: Annotated[int, typer.Option("--evaluations", min=1, help="Subnets to evaluate in all.")] = 200,
    study: Annotated[
        str | None, typer.Option("--study", help="Name; a study of that name is resumed.", show_default=False)
    ] = None,
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Search the subnets of a supernet: INT8 top-1 against predicted latency."""
    with extras("search"):
        from ..nas.data import parse_data
        from ..nas.subnet_search import best_per_budget
        from ..nas.supernets import load_supernet
        from ..nas.workflow import default_budgets_ms, find_subnets
    from ..predictors.lookup import LatencyLookup
    from ..predictors.targets import device_target

    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        local = device_target(database, target)
        pictures = parse_data(data)
        trained = load_supernet(database, supernet, pictures)
        name = study or f"{supernet}-{local.name.replace('/', '-')}-{seed}"
        with latency_client(database, server) as client:
            if budgets:
                limits = milliseconds_list(budgets)
            else:
                hyperspace = trained.space.hyperspace
                lookup = LatencyLookup(client.latency_table(hyperspace.name, local.name))
                limits = default_budgets_ms(hyperspace, lookup, seed)
            found = find_subnets(
                database,
                client,
                local,
                trained,
                supernet,
                pictures,
                name,
                limits,
                evaluations=evaluations,
                seed=seed,
                on_progress=on_progress,
            )
    best = best_per_budget(found, limits)
    if json:
        subnets = [
            {
                "id": f"{name}:{e.trial}",
                "subnet": e.subnet.encoding,
                "budget_ms": e.budget_ms,
                "top1": e.top1,
                "predicted_ms": e.latency_ms,
            }
            for e in best
        ]
        print_json({"study": name, "evaluations": len(found), "subnets": subnets})
        return
    rows = [(f"{name}:{e.trial}", milliseconds(e.budget_ms), percent(e.top1), milliseconds(e.latency_ms)) for e in best]
    print_table(("subnet", "budget ms", "top-1 (val)", "predicted ms"), rows)
    note(f"Next: milliseek export {name}")
