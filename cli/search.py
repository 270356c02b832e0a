"""`search`: the best networks of a supernet, for any objectives under any constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

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

if TYPE_CHECKING:
    from ..client import Client
    from ..nas.search.confirmation import Confirmation
    from ..nas.search.objectives import Goal
    from ..nas.search.subnet_search import EvaluatedSubnet
    from ..nas.search.subnet_studies import SearchResult
    from ..spaces.hyperspace import Hyperspace


def search(
    supernet: Annotated[str, typer.Argument(help="Name of a trained supernet.", show_default=False)],
    budgets: Annotated[
        str | None,
        typer.Option("--budgets", help="Budgets in ms for --target: the best subnet of each.", show_default=False),
    ] = None,
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            help="top1, latency, latency:TARGET, macs, params, size or memory; repeat it for several. "
            "[default: top1 and latency]",
            show_default=False,
        ),
    ] = None,
    constraints: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            help="Bound on one of them: 'macs<=50M', 'latency:TARGET<=0.5ms', 'size<=500kB', 'top1>=90%'.",
            show_default=False,
        ),
    ] = None,
    algorithm: Annotated[
        Literal["evolution", "nsga2", "guided", "random"],
        typer.Option("--algorithm", help="evolution needs budgets; guided learns from what it has evaluated."),
    ] = "evolution",
    target: TargetOption = DEFAULT_TARGET,
    data: Data = "digits",
    evaluations: Annotated[int, typer.Option("--evaluations", min=1, help="Subnets to evaluate in all.")] = 200,
    confirm: Annotated[
        int,
        typer.Option("--confirm", min=0, help="Test and measure so many of the best: of each budget, or of the front."),
    ] = 0,
    study: Annotated[
        str | None, typer.Option("--study", help="Name; a study of that name is resumed.", show_default=False)
    ] = None,
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Search the subnets of a supernet: INT8 top-1 against predicted latency, or whatever you ask for.

    The same command in a second terminal works on the same study.
    """
    with extras("search"):
        from ..nas.pictures.data import parse_data
        from ..nas.search.confirmation import confirm as confirmed_subnets
        from ..nas.search.objectives import parse_goal
        from ..nas.search.subnet_studies import SearchPlan, begun_budgets, find_subnets
        from ..nas.training.supernets import load_supernet, picture_size
    from ..predictors.targets import device_target, parse_target

    canonical = str(parse_target(target))
    goal = parse_goal(objectives or ["top1", "latency"], constraints or [], canonical)
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        measuring = device_target(database, target) if confirm else None
        pictures = parse_data(data, picture_size(database, supernet))
        trained = load_supernet(database, supernet, pictures)
        name = study or _name(supernet, canonical, algorithm, seed)
        with latency_client(database, server) as client:
            limits = (
                milliseconds_list(budgets)
                if budgets
                else begun_budgets(database, name) or _budgets(client, goal, canonical, trained.space.hyperspace, seed)
            )
            result = find_subnets(
                database,
                client,
                SearchPlan(goal, canonical, limits, algorithm),
                trained,
                supernet,
                pictures,
                name,
                evaluations=evaluations,
                seed=seed,
                on_progress=on_progress,
            )
        confirmed: list[Confirmation] = []
        if measuring is not None:
            confirmed = confirmed_subnets(
                database, measuring, trained, pictures, name, result.best(confirm), on_progress
            )
    if json:
        print_json(_as_json(result, confirmed, result.best(max(1, confirm))))
    else:
        _print(result, confirmed)


def _name(supernet: str, target: str, algorithm: str, seed: int) -> str:
    """A study's default name."""
    parts = (supernet, target.replace("/", "-"), *([algorithm] if algorithm != "evolution" else []), str(seed))
    return "-".join(parts)


def _budgets(client: Client, goal: Goal, target: str, hyperspace: Hyperspace, seed: int) -> tuple[float, ...]:
    """Budgets where none are given: the bound on the target's latency, else some that suit an objective."""
    from ..nas.design.latency_budgets import default_budgets_ms
    from ..nas.search.objectives import Metric
    from ..predictors.lookups.lookup import LatencyLookup

    latency = Metric("latency", target)
    if (bound := goal.upper_bound(latency)) < float("inf"):
        return (bound,)
    if latency not in goal.objectives:
        return ()
    return default_budgets_ms(hyperspace, LatencyLookup(client.latency_table(hyperspace.name, target)), seed)


def _as_json(result: SearchResult, confirmed: list[Confirmation], candidates: list[EvaluatedSubnet]) -> dict[str, Any]:
    """The documented object."""
    by_trial = {each.trial: each for each in candidates}
    return {
        "study": result.study,
        "algorithm": result.plan.algorithm,
        "objectives": [str(metric) for metric in result.plan.goal.objectives],
        "constraints": [str(constraint) for constraint in result.plan.goal.constraints],
        "evaluations": len(result.evaluated),
        "feasible": len(result.found),
        "hypervolume": float(result.hypervolumes[-1]) if len(result.hypervolumes) else 0.0,
        "subnets": [_subnet_json(result.study, each) for each in result.best()],
        "front": [_subnet_json(result.study, each) for each in result.front],
        "confirmed": [
            {
                **_subnet_json(result.study, by_trial[each.trial]),
                "target": each.target,
                "top1_test": each.top1,
                "top1_test_float": each.top1_float,
                "measured_ms": each.measured_ms,
                "disturbed": each.disturbed,
            }
            for each in confirmed
        ],
    }


def _subnet_json(study: str, found: EvaluatedSubnet) -> dict[str, Any]:
    return {
        "id": f"{study}:{found.trial}",
        "subnet": found.subnet.encoding,
        "budget_ms": found.budget_ms,
        "top1": found.top1,
        "predicted_ms": found.latency_ms,
        "metrics": {str(metric): value for metric, value in found.metrics.items()},
    }


def _print(result: SearchResult, confirmed: list[Confirmation]) -> None:
    best = result.best()
    if not best:
        note(f"None of {len(result.evaluated)} subnets meets the constraints; more --evaluations may find some.")
        return
    budgets = bool(result.plan.budgets_ms)
    costs = result.plan.goal.costs
    columns = ("subnet", *(["budget ms"] if budgets else []), "top-1 (val)", *map(str, costs))
    rows = [
        (
            f"{result.study}:{each.trial}",
            *([milliseconds(each.budget_ms or 0.0)] if budgets else []),
            percent(each.top1),
            *(metric.shown(each.metrics[metric]) for metric in costs),
        )
        for each in best
    ]
    print_table(columns, rows)
    if confirmed:
        tested = [
            (
                f"{result.study}:{each.trial}",
                percent(each.top1),
                milliseconds(each.measured_ms) + ("?" if each.disturbed else ""),
            )
            for each in confirmed
        ]
        print_table(("confirmed", "top-1 (test)", "measured ms"), tested)
    note(
        f"{len(result.evaluated)} subnets, hypervolume {result.hypervolumes[-1]:.4f}. "
        f"Next: milliseek export {result.study}, milliseek report {result.study} -o report.html"
    )
