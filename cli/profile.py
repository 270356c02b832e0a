"""`profile`: from nothing to a predictor of one target."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Db, Json, Seed, open_database, seconds
from .output import note, out, percent, print_json, progress_bar


def profile(
    target: Annotated[
        str, typer.Argument(help="Target, such as local/onnxruntime/int8 or local/litert/fp32.", show_default=False)
    ],
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time to spend: 90s, 5m, 1h. Default: 5m, 1m with --from.")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="Hyperspace or space to measure kernels and networks of; may be repeated. "
            "Default: published networks and all hyperspaces.",
            show_default=False,
        ),
    ] = None,
    continue_: Annotated[
        bool, typer.Option("--continue", help="Add to what the newest predictor rests on, instead of starting anew.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start from the predictor of a like target: another thread count, runtime version, board.",
            show_default=False,
        ),
    ] = None,
    kernels: Annotated[
        int, typer.Option("--kernels", min=10, help="Kernels to measure with --from.", show_default=True)
    ] = 100,
    seed: Seed = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Measure kernels and networks on a target and fit its latency predictor.

    Every run makes a new version of the predictor. An interrupted run goes on where it was. The progress bar tells
    how many of the kernels that are never trained on are predicted within 10 %.
    """
    from ..predictors.profiles.profiling import profile as run_profile
    from ..predictors.stored.versions import predictor_version
    from ..predictors.targets import device_target
    from ..spaces.hyperspace import HYPERSPACES
    from ..spaces.space import named_space

    if base is not None and continue_:
        raise typer.BadParameter("--from starts anew; --continue adds. Give one of them.")
    sources = [named_space(name) for name in space or HYPERSPACES]
    budget_s = seconds(budget or ("5m" if base is None else "1m"))
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        result = run_profile(
            database,
            device_target(database, target),
            sources,
            budget_s,
            published=not space,
            add=continue_,
            base=predictor_version(database, base) if base is not None else None,
            max_kernels=kernels if base is not None else None,
            seed=seed,
            on_progress=on_progress,
        )
    if json:
        print_json(
            {
                "target": result.target,
                "predictor": result.predictor,
                "kernels": result.kernels,
                "networks": result.networks,
                "seconds": result.seconds,
                "held_out": result.held_out,
                "failures": dict(result.failures),
            }
        )
        return
    if result.failures:
        count, (reason, *_) = sum(result.failures.values()), result.failures
        note(f"{count} kernels could not be measured alone and are predicted from their sizes; most often: {reason}")
    held_out = result.held_out
    out.print(f"{result.predictor}: {result.kernels} kernels and {result.networks} networks, {result.seconds:.0f} s")
    if held_out["kernels"]:
        out.print(
            f"{held_out['kernels']} kernels never trained on: {percent(held_out['within_5'])} within 5 %, "
            f"{percent(held_out['within_10'])} within 10 %"
        )
    networks = held_out["networks"]
    out.print(
        f"whole networks, leave one out: {percent(networks['within_5'])} within 5 %, "
        f"{percent(networks['within_10'])} within 10 %, MAPE {percent(networks['mape'])}"
    )
