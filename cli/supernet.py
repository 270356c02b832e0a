"""`supernet`: training the shared weights of a space."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DEFAULT_TARGET, Data, Db, Json, Seed, TargetOption, extras, open_database, seconds
from .output import out, print_json, progress_bar

app = typer.Typer(help="Train the shared weights of all networks of a space.", no_args_is_help=True)


@app.command()
def train(
    space: Annotated[str, typer.Argument(help="Space, such as small32-1512-0231.", show_default=False)],
    data: Data = "digits",
    name: Annotated[
        str | None, typer.Option("--name", help="Name; an unfinished supernet of that name is resumed.")
    ] = None,
    budget: Annotated[str, typer.Option("--budget", help="Training time: 10m, 2h; a third of it fake-quantised.")] = (
        "30m"
    ),
    batch: Annotated[int, typer.Option("--batch", min=2, help="Pictures a step.")] = 16,
    target: TargetOption = DEFAULT_TARGET,
    seed: Seed = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Train one quantised supernet: sandwich steps in fp32, then with LSQ+ fake quantisation.

    The target decides how many bits a weight has: 7 on x86 without VNNI, where 8 would saturate.
    """
    with extras("search"):
        from ..nas.budget import Budget
        from ..nas.data import parse_data
        from ..nas.supernet import Recipe, StepReport, SupernetTraining
        from ..nas.supernets import train_supernet
    from ..predictors.targets import device_target
    from ..spaces.space import Space

    budget_s = seconds(budget)
    decoded = Space.decode(space)
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        local = device_target(database, target)
        pictures = parse_data(data)
        chosen = name or f"{space}-{pictures.fingerprint[:8]}-{seed}"
        recipe = Recipe(
            Budget(seconds=budget_s * 2 / 3),
            Budget(seconds=budget_s / 3),
            weight_bits=local.weight_bits,
            batch=batch,
            seed=seed,
        )
        steps = 0

        def on_step(training: SupernetTraining, report: StepReport | None) -> None:  # noqa: ARG001
            nonlocal steps
            steps = training.steps
            on_progress("training the supernet", training.progress, 1)

        train_supernet(database, chosen, decoded, pictures, recipe, on_step)
    if json:
        print_json({"supernet": chosen, "space": space, "steps": steps})
    else:
        out.print(f"Supernet {chosen} is trained ({steps} steps). Next: milliseek search {chosen}")
