"""`proxies`: training-free guesses of accuracy, and how far they can be trusted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    DEFAULT_TARGET,
    Data,
    Db,
    HyperspaceOption,
    Json,
    Seed,
    Server,
    TargetOption,
    extras,
    hyperspace_option,
    latency_client,
    milliseconds_list,
    open_database,
)
from .output import milliseconds, note, print_json, print_table, progress_bar

app = typer.Typer(help="Training-free proxies of accuracy, and their proof.", no_args_is_help=True)

Names = Annotated[
    list[str] | None,
    typer.Option(
        "--proxy",
        help="deepmad, zico, naswot, synflow, params or macs; repeat it for several. [default: all]",
        show_default=False,
    ),
]


@app.command()
def check(
    hyperspace: HyperspaceOption = "small32",
    data: Data = "digits",
    names: Names = None,
    studies: Annotated[
        list[str] | None,
        typer.Option("--study", help="Study of subnets; repeat it. [default: all of this data]", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help='JSON: {"networks": [{"subnet", "top1"}]}.', show_default=False),
    ] = None,
    seed: Seed = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Prove proxies on networks whose accuracy was measured: Kendall's tau with a 90 % interval."""
    with extras("search"):
        from ..nas.pictures.data import parse_data
        from ..nas.quality.proxies import ProxyTask, proxies_named
        from ..nas.search.proxy_trust import measured_networks, prove, read_networks

    proxies = proxies_named(names or [])
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        chosen = hyperspace_option(hyperspace)
        pictures = parse_data(data, max(chosen.resolutions))
        networks = read_networks(file, chosen) if file else {}
        if studies or not file:
            networks |= measured_networks(database, chosen, pictures.fingerprint, studies or ())
        found = prove(
            database,
            chosen,
            pictures.fingerprint,
            proxies,
            ProxyTask.of(pictures, seed),
            networks,
            seed=seed,
            on_network=lambda done, total: on_progress("scoring networks", done, total),
        )
    if json:
        print_json(
            {
                "hyperspace": chosen.name,
                "networks": len(networks),
                "proxies": [
                    {"name": name, "tau": t.tau, "low": t.low, "high": t.high, "proven": t.proven}
                    for name, t in found.items()
                ],
            }
        )
        return
    rows = [
        (name, f"{t.tau:.2f}", f"{t.low:.2f} to {t.high:.2f}", "yes" if t.proven else "no") for name, t in found.items()
    ]
    print_table(("proxy", "tau", "90 % interval", "proven"), rows)
    note(f"on {len(networks)} networks; milliseek proxies search uses the proven ones")


@app.command("score")
def score_subnets(
    subnets: Annotated[list[str], typer.Argument(help="Subnets (SPACE:d.._k.._w.._e.._r..).", show_default=False)],
    data: Data = "digits",
    names: Names = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Score subnets by proxies; their sizes are always among the answers."""
    with extras("search"):
        from ..nas.pictures.data import parse_data
        from ..nas.quality.proxies import ProxyTask, proxies_named
    from ..spaces.space import Subnet

    proxies = proxies_named(names or [])
    decoded = [Subnet.decode(subnet) for subnet in subnets]
    pictures = parse_data(data, max(resolution for s in decoded for resolution in s.space.hyperspace.resolutions))
    task = ProxyTask.of(pictures, seed)
    scores = [{name: proxy(subnet, task) for name, proxy in proxies.items()} for subnet in decoded]
    if json:
        told = [{name: _finite(value) for name, value in each.items()} for each in scores]
        print_json({"subnets": [{"subnet": s, **each} for s, each in zip(subnets, told, strict=True)]})
        return
    rows = [(s, *(f"{value:.6g}" for value in each.values())) for s, each in zip(subnets, scores, strict=True)]
    print_table(("subnet", *proxies), rows)


@app.command()
def search(
    space: Annotated[str, typer.Argument(help="Space such as small32-5125-0312.", show_default=False)],
    proxy: Annotated[str, typer.Option("--proxy", help="Objective: a proxy that is proven.", show_default=False)],
    budgets: Annotated[str, typer.Option("--budgets", help="Latency budgets in ms: 0.3,0.5.", show_default=False)],
    target: TargetOption = DEFAULT_TARGET,
    data: Data = "digits",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Random subnets scored for each budget.")] = 200,
    force: Annotated[bool, typer.Option("--force", help="Use a proxy that is not proven.")] = False,
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """The best random subnets within latency budgets by a proxy, without any training."""
    with extras("search"):
        from ..nas.pictures.data import parse_data
        from ..nas.quality.proxies import ProxyTask, proxies_named
        from ..nas.search.proxy_search import search_by_proxy
        from ..nas.search.proxy_trust import check_proven
    from ..predictors.lookups.lookup import LatencyLookup
    from ..predictors.targets import device_target
    from ..spaces.space import Space

    limits = milliseconds_list(budgets)
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        objective, of = proxies_named([proxy])[proxy], Space.decode(space)
        pictures = parse_data(data, max(of.hyperspace.resolutions))
        known = check_proven(database, of.hyperspace, pictures.fingerprint, proxy, force=force)
        with latency_client(database, server) as client:
            lookup = LatencyLookup(client.latency_table(of.encoding, device_target(database, target).name))
        found = search_by_proxy(
            of,
            lookup,
            objective,
            ProxyTask.of(pictures, seed),
            limits,
            samples=samples,
            seed=seed,
            on_network=lambda done, total: on_progress("scoring networks", done, total),
        )
    if json:
        print_json(
            {
                "proxy": proxy,
                "tau": known.tau if known else None,
                "proven": bool(known and known.proven),
                "subnets": [
                    {
                        "subnet": choice.subnet.encoding,
                        "budget_ms": choice.budget_ms,
                        "predicted_ms": choice.latency_ms,
                        "score": _finite(choice.score),
                    }
                    for choice in found
                ],
            }
        )
        return
    rows = [(c.subnet.encoding, milliseconds(c.budget_ms), milliseconds(c.latency_ms), f"{c.score:.6g}") for c in found]
    print_table(("subnet", "budget ms", "predicted ms", proxy), rows)
    if not (known and known.proven):
        note(f"'{proxy}' is not proven on these pictures; take this for a guess")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
